"""Anomaly detectors: features in, patch scores out."""
