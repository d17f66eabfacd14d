"""The latest state of a training on disk, in `data/scratch/train`: no output of DVC.

DVC removes the outputs of a stage before it runs, so an interrupted training could not go on from
there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactError
from pipeline.io.stored import check_sha256, read_object, read_tensors, sha256_of, write_tensors
from pipeline.io.tables import write_json
from pipeline.mgvit.checkpoints import EpochLosses, TrainingState

log = logging.getLogger("anomalyncd")

_TENSORS, _JSON = "state.safetensors", "state.json"
_EVERY_S = 20.0


class EpochCheckpoints:
    """State after the last epoch, in a folder named by a digest of what the training depends on.

    A state is written when the one before is `every_s` old: 60 MB take a moment, and an epoch of a
    small set less than that.
    """

    def __init__(
        self, folder: Path, made_from: Mapping[str, object], every_s: float = _EVERY_S
    ) -> None:
        text = json.dumps(made_from, sort_keys=True)
        self._folder = folder
        self._current = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._every_s, self._last = every_s, time.monotonic()

    def load(self) -> TrainingState | None:
        """Return the state of a training of the same inputs that was interrupted, if any.

        A damaged state is as good as none.
        """
        if not self._current.is_dir():
            return None
        try:
            state = _read(self._current)
        except (ArtifactError, TypeError) as error:
            log.warning("%s; training starts from the beginning", error)
            return None
        log.info("going on after epoch %d of an interrupted training", len(state.history))
        return state

    def save(self, state: Callable[[], TrainingState]) -> None:
        """Write a state, if the last is old enough, and remove those of other inputs."""
        if time.monotonic() - self._last < self._every_s:
            return
        _write(self._current, state())
        for other in self._folder.iterdir():
            if other != self._current:
                shutil.rmtree(other, ignore_errors=True)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove all states of the category: the training is done and its artifact is written."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _write(folder: Path, state: TrainingState) -> None:
    with replacing_folder(folder) as temporary:
        temporary.mkdir()
        write_tensors(temporary / _TENSORS, state.tensors)
        content: dict[str, Any] = {
            "sha256": sha256_of(temporary / _TENSORS),
            "generator": state.generator,
            "history": [asdict(losses) for losses in state.history],
        }
        write_json(temporary / _JSON, content)


def _read(folder: Path) -> TrainingState:
    fields = {"sha256": (str,), "generator": (dict,), "history": (list,)}
    content = read_object(folder / _JSON, fields)
    check_sha256(folder / _TENSORS, content["sha256"], folder / _JSON)
    history = [
        EpochLosses(**{**row, "per_head": tuple(row["per_head"])}) for row in content["history"]
    ]
    return TrainingState(read_tensors(folder / _TENSORS), content["generator"], tuple(history))
