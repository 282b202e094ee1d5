"""Versions of a model side by side."""
