"""Learning one task after another without forgetting the earlier ones."""
