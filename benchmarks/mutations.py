"""Change the source in one place at a time and see which changes the tests notice.

    python -m benchmarks.mutations            # all, about a quarter of an hour
    python -m benchmarks.mutations losses     # those whose file has "losses" in its path

Each mutation of mutations.yaml is made in a copy of the repository, in a temporary folder; then its
test files run until the first failure. "survived" means that they passed: a test is missing, or the
change makes no difference (docs/reliability.md says which).
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
_COPIED = ("pipeline", "stages", "tests", "benchmarks", "docs", "params", "data/raw")
_SECONDS = 900


class Mutation(NamedTuple):
    """`old`, which stands once in the file, becomes `new`; `tests` should fail."""

    file: str
    old: str
    new: str
    tests: list[str]


def read() -> list[Mutation]:
    """Return the mutations of benchmarks/mutations.yaml."""
    groups = YAML(typ="safe", pure=True).load(ROOT / "benchmarks/mutations.yaml")
    return [
        Mutation(row["file"], row["old"], row["new"], row["tests"].split())
        for rows in groups.values()
        for row in rows
    ]


def copy(root: Path) -> None:
    """Copy what the tests need."""
    for name in _COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in {".yaml", ".toml", ".md", ".txt"}:
            shutil.copy(path, root)


def caught(root: Path, mutation: Mutation) -> bool:
    """Tell whether a test fails with a mutation; the copy is restored."""
    path = (root / "pipeline" / mutation.file).resolve()
    before = path.read_text(encoding="utf-8")
    if before.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.file}: {mutation.old!r} stands {before.count(mutation.old)}x")
    path.write_text(before.replace(mutation.old, mutation.new), encoding="utf-8")
    tests = [f"tests/{test}" for test in mutation.tests if (root / "tests" / test).exists()]
    try:
        return _fails(root, tests)
    finally:
        path.write_text(before, encoding="utf-8")


def _fails(root: Path, tests: list[str]) -> bool:
    """Run tests in a child, which has the libraries loaded already but nothing of the project."""
    child = os.fork()
    if child == 0:  # pragma: no cover - the child
        os.chdir(root)
        sys.path[:] = [str(root), *(p for p in sys.path if p and Path(p).resolve() != ROOT)]
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        sys.modules.pop("benchmarks", None)
        signal.alarm(_SECONDS)
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1, 2, -signal.SIGALRM):
        raise SystemExit(f"pytest {' '.join(tests)} ended with {code}")
    return code != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", default="")
    part = parser.parse_args().part
    chosen = [mutation for mutation in read() if part in mutation.file]
    survivors = []
    sys.dont_write_bytecode = True
    for library in ("cv2", "hypothesis", "pandas", "pydantic", "sklearn.mixture", "timm", "zarr"):
        importlib.import_module(library)
    with tempfile.TemporaryDirectory() as work:
        copy(Path(work))
        for mutation in chosen:
            start = time.monotonic()
            found = caught(Path(work), mutation)
            if not found:
                survivors.append(mutation)
            state = "caught  " if found else "SURVIVED"
            change = f"{mutation.old!r} -> {mutation.new!r}"
            seconds = time.monotonic() - start
            print(f"{state} {seconds:4.0f} s  {mutation.file}: {change}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} caught")


if __name__ == "__main__":
    main()
