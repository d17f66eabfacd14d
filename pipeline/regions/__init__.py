"""Regions: squares around them, and the merge of their classes into classes of images."""
