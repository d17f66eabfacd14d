"""How fast the stages are beside the plain way: `python -m benchmarks.speed --help`."""
