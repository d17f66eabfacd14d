"""Files: artifacts, images, data sets, weights."""
