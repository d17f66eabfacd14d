"""Where the blocks of a stage run, if not in its own process: Dask, imported when asked for."""
