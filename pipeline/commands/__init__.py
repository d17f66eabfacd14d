"""Commands of the command line that are not stages, one module each (edges)."""
