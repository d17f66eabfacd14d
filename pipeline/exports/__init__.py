"""What was discovered, in the formats of other programs (edges: they write files)."""
