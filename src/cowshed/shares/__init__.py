"""Shares: what may be shared with a guest, and which shares an instance has."""
