"""Clustering of regions: descriptors, the ensemble of mixtures, the number of classes, novelty."""
