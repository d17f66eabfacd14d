"""Stages that are killed, full disks and power cuts: nothing half-written, nothing left behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pipeline.config.section import ConfigError
from pipeline.io.files import replacing, replacing_folder, temporary_prefix
from pipeline.io.paths import ArtifactPaths
from pipeline.io.provenance import recorded
from pipeline.io.tables import write_json
from tests.graph import ROOT

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.io.files import replacing_folder
with replacing_folder(Path(sys.argv[1])) as folder:
    folder.mkdir()
    (folder / "half").touch()
    if sys.argv[2] == "aside":
        replace = os.replace
        os.replace = lambda a, b: replace(a, b) or os.kill(os.getpid(), signal.SIGKILL)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path, when: str = "writing") -> None:
    """Kill a process that is writing the folder `path`, or has just put the old one aside."""
    command = [sys.executable, "-c", KILLED, str(path), when]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL


def write(path: Path) -> None:
    with replacing_folder(path) as folder:
        folder.mkdir()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    killed(tmp_path / "c")
    assert len(names(tmp_path)) == 1
    write(tmp_path / "c")
    assert names(tmp_path) == ["c"]


def test_what_a_killed_process_had_put_aside_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "c" / "old.json", {})
    killed(tmp_path / "c", "aside")
    assert len(names(tmp_path)) == 2
    assert not (tmp_path / "c").exists()
    write(tmp_path / "another")
    assert names(tmp_path) == ["another", "c"]
    assert names(tmp_path / "c") == ["old.json"]


def test_only_leftovers_of_dead_processes_are_swept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        ours = temporary_prefix("c")
        place = ours[: -len(f"{os.getpid()}-")]
        kept = {
            f"{place}{other.pid}-abcdef.tmp",  # of a process that lives
            f"{place}{other.pid}-abcdef.old",
            ".c.ffff-99999999-abcdef.tmp",  # of another machine
            ".c.tmp",
            ".c.abcdef.tmp",
            f"{place}99999999-abcdef.tmp.png",
            f"x{place}99999999-abcdef.tmp",
        }
        for name in (*kept, f"{place}99999999-abcdef.tmp", f"{ours}abcdef.tmp"):
            (tmp_path / name).touch()
        write(tmp_path / "c")
        assert {path.name for path in tmp_path.iterdir()} == {"c", *kept}
        other.communicate(b"\n")


def test_two_runs_at_once_do_not_sweep_each_other(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "a") as first:
        first.mkdir()
        code = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "None")
        command = [sys.executable, "-c", code, str(tmp_path / "b"), "writing"]
        subprocess.run(command, cwd=ROOT, check=True)
        assert first.is_dir()
        with replacing(tmp_path / "file") as second:
            second.touch()
        assert first.is_dir()
    assert names(tmp_path) == ["a", "b", "file"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_stage_that_is_asked_to_stop_cleans_up(tmp_path: Path, number: int, status: int) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("demo: {good: 2000, per_defect: 0, normals: 0}\n")
    data = tmp_path / "data"
    command = [sys.executable, "-m", "pipeline.cli", "demo", "--params", str(params)]
    heard = partial(signal.signal, number, signal.SIG_DFL)  # shells may have it ignored
    command += ["--data", str(data)]
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=heard) as stage:
        deadline = time.monotonic() + 60
        while not list(data.rglob("*.png")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(data.rglob(".*.tmp"))
        stage.send_signal(number)
        try:
            assert stage.wait(timeout=60) == status
        finally:
            stage.kill()
    assert not [path for path in data.rglob("*") if path.is_file()]
    assert not list(data.rglob(".*"))


def test_a_complete_stage_does_not_fail_for_its_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs").write_text("in the way")
    with (
        caplog.at_level(logging.WARNING, logger="anomalyncd"),
        recorded("maps", "c", ArtifactPaths(tmp_path)),
    ):
        pass
    assert "could not be recorded" in caplog.text
    with pytest.raises(ConfigError), recorded("maps", "c", ArtifactPaths(tmp_path)):
        raise ConfigError("of the stage itself")


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def renamed(source: Path, target: Path) -> None:
        done.append(f"-> {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_json(tmp_path / "x.json", {})
    assert done[0].startswith(".x.json.")
    assert done[1:] == ["-> x.json", tmp_path.name]
    done.clear()
    with replacing_folder(tmp_path / "few") as folder:
        folder.mkdir()
        (folder / "a").touch()
    assert done == ["a", "-> few", tmp_path.name]
    done.clear()
    with replacing_folder(tmp_path / "many") as folder:
        folder.mkdir()
        for i in range(100):
            (folder / f"{i}").touch()
    assert done == ["-> many", tmp_path.name]
    done.clear()
    with replacing(tmp_path / "link") as temporary:
        temporary.symlink_to("x.json")
    assert done == ["-> link", tmp_path.name]
