"""Clustering: which images are normal, and classes of the others."""
