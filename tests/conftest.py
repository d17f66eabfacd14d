"""What holds for all tests."""

import os

# One thread a process, also in those that tests start: over networks as small as these, threads
# wait for cores that other tests use. Read by torch when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
