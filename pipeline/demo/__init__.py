"""The demo images."""
