"""Discovered classes in the formats of other programs."""
