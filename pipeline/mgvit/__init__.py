"""The mask-guided ViT: backbone, attention, heads, losses, training."""
