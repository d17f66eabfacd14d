"""Where stages run, if not in one process: blocks on Dask, training by torchrun's ranks."""
