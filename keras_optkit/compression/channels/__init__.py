"""Fewer channels: smaller layers."""
