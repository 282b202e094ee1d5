"""Channels really removed: a smaller network from the same graph."""
