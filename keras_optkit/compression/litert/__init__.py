"""LiteRT: files for small devices, what is in them, and how fast they run."""
