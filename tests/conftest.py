"""What holds for all tests."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# One thread a process, also in those that tests start: over networks as small as these, threads
# wait for cores that other tests use. Read by torch when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: 200 ms an example are not much where other work shares the machine.
settings.register_profile("anomalyncd", deadline=None)
settings.load_profile("anomalyncd")


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Put the level of the log back: ranks other than the first log errors alone."""
    log = logging.getLogger("anomalyncd")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture(autouse=True, scope="session")
def _names_of_the_repository() -> Iterator[None]:
    """Fail if a test wrote names into the file that is in git."""
    path = Path(__file__).parents[1] / "names.yaml"
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before, f"a test wrote to {path}"
