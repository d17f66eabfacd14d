"""What holds for all tests."""

import os

from hypothesis import settings

# One thread a process, also in those that tests start: over networks as small as these, threads
# wait for cores that other tests use. Read by torch when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: 200 ms an example are not much where other work shares the machine.
settings.register_profile("anomalyncd", deadline=None)
settings.load_profile("anomalyncd")
