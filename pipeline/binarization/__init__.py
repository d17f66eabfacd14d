"""Binarization of anomaly maps: MEBin and its parts."""
