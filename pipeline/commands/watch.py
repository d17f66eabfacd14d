"""`anomalyncd classify --watch` and `--once`: images of a folder as they come, a line each."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.section import ConfigError
from pipeline.errors import AnomalyNCDError
from pipeline.io.images import ImageError, read_image, sample_id
from pipeline.io.parts import is_part_file, parts_by_expression
from pipeline.io.results import COLUMNS, ResultLog, text_cell, worst
from pipeline.io.watched_folder import FileState, WatchedFolder
from pipeline.terminal import printable, say

if TYPE_CHECKING:
    from pipeline.inference import ImageClassifier

STOPPED = (signal.SIGINT, signal.SIGTERM)


class LineWatch:
    """Classifies each new image of a folder once, and appends its result to a table.

    `part_rule` is `manifest.part`: an expression gives images their parts, and each part the worst
    verdict of its images so far. A file of parts cannot name images to come and is left out.
    """

    def __init__(
        self,
        folder: WatchedFolder,
        log: ResultLog,
        classifier: ImageClassifier,
        part_rule: str | None,
    ) -> None:
        self._folder, self._log, self._classifier = folder, log, classifier
        self._rule = None if part_rule is None or is_part_file(part_rule) else part_rule
        self._done = {(row["path"], row["modified"]) for row in log.rows}
        self._parts: dict[str, str] = {}
        for row in log.rows:
            if row["part"]:
                self._parts[row["part"]] = row["part_verdict"]

    def new(self) -> list[FileState]:
        """Return the images that are wholly there and not in the table, the oldest first."""
        return [
            file
            for file in self._folder.settled()
            if (text_cell(file.path), file.modified) not in self._done
        ]

    @property
    def growing(self) -> bool:
        """Tell whether an image was still being written when the folder was last looked at."""
        return self._folder.growing

    def classify(self, file: FileState) -> dict[str, Any] | None:
        """Classify an image, and write its row; None if the file changed or went meanwhile."""
        start = time.perf_counter()
        path = self._folder.root / file.path
        try:
            row = self._read_and_classify(path)
        except ImageError as error:
            row = {"verdict": "unreadable", "reason": error.reason}
        if self._folder.state(file.path) != file:
            return None
        found: dict[str, Any] = dict.fromkeys(COLUMNS)
        found |= {"modified": file.modified, "path": file.path, **row}
        if self._rule is not None:
            found["part"] = parts_by_expression([file.path], self._rule).get(file.path)
        if found["part"]:
            key = text_cell(found["part"])
            before = self._parts.get(key, "good")
            found["part_verdict"] = worst([before, found["verdict"]])
            self._parts[key] = found["part_verdict"]
        found["seconds"] = round(time.perf_counter() - start, 4)
        self._log.append(found)
        self._done.add((text_cell(file.path), file.modified))
        return found

    def _read_and_classify(self, path: Path) -> dict[str, Any]:
        digest = sample_id(path)
        pixels = read_image(path, self._classifier.options.bits)
        result = self._classifier([pixels])
        number, name = int(result.classes[0]), result.names[0]
        verdict = "unknown" if number < 0 else "good" if number == 0 else "defect"
        if name == self._classifier.names[0]:  # a class that people named as the normal one
            verdict = "good"
        return {
            "sample_id": digest,
            "verdict": verdict,
            "class": number,
            "name": name,
            "confidence": round(float(result.confidence[0]), 6),
            "nearest_class": int(result.nearest_classes[0]),
            "score": round(float(result.scores[0]), 6),
            "image_score": round(float(result.image_scores[0]), 6),
            "brightness": round(float(pixels.mean()) / 255, 6),
            "region_classes": " ".join(str(k) for k in result.region_classes[0]),
        }


def watch(line: LineWatch, *, once: bool, interval: float) -> bool:
    """Classify what is there and, unless `once`, what comes; return whether all was good.

    Prints a line of JSON an image. Only images that this call classified decide what is returned;
    `once` ends when all images that are there are in the table. SIGINT and SIGTERM end the call
    after the image in work; with `once` they raise `StoppedError`.
    """
    all_good = True
    line.new()  # the first look: what is as it was at the next one is wholly there
    with _stopping() as stopped:
        while _waited(interval, stopped):
            changed = False
            for file in line.new():
                row = line.classify(file)
                if row is None:
                    changed = True
                else:
                    all_good = all_good and row["verdict"] == "good"
                    _print(row)
                if stopped:
                    break
            if once and not (stopped or changed or line.growing):
                return all_good
        if once:
            raise StoppedError
    return all_good


class StoppedError(AnomalyNCDError):
    """A signal ended `--once` before all images were looked at."""


def check_watched(folder: Path, interval: float) -> None:
    """Raise `ConfigError` for what cannot be watched."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: --watch and --once take a folder of images")
    if not 0 < interval <= 3600:
        raise ConfigError(f"--interval: {interval} is not within 0 to 3600 seconds")


def _print(row: dict[str, Any]) -> None:
    shown = {k: printable(v) if isinstance(v, str) else v for k, v in row.items() if v is not None}
    sys.stdout.write(json.dumps(shown, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _waited(seconds: float, stopped: list[int]) -> bool:
    """Sleep, but no longer than until a signal came; tell whether none did."""
    end = time.monotonic() + seconds
    while not stopped and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
    return not stopped


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """Yield a list that SIGINT and SIGTERM put their numbers into: they interrupt nothing."""
    stopped: list[int] = []
    before = {n: signal.signal(n, lambda number, _: stopped.append(number)) for n in STOPPED}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say_start(folder: Path, log: ResultLog) -> None:
    """Say on standard error what is being watched."""
    rows = f"{len(log.rows)} results there" if log.rows else "a new table"
    say(f"watching {folder}; results go to {log.path} ({rows})", err=True)
