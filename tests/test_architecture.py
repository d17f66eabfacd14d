"""Which package may import which: the whole architecture of `pipeline/` and `stages/`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.graph import ROOT, imports

COMPUTE = {
    *("binarization", "clustering", "demo", "detectors", "evaluation", "mgvit", "peers"),
    "regions",
}
FILES = {"comparison", "curation", "inference", "io", "report"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "file_checks": set(),
    "palette": set(),
    "terminal": set(),
    "progress": {"terminal"},
    "executor": {"progress", "terminal"},
    "evaluation": set(),
    "regions": set(),
    "binarization": {"progress", "terminal"},
    "demo": {"progress", "terminal"},
    "detectors": {"progress", "terminal"},
    "mgvit": {"errors", "progress", "terminal"},
    "clustering": {"mgvit", "progress", "terminal"},
    "peers": {"clustering", "detectors", "errors", "mgvit", "progress", "terminal"},
    "config": {"errors", "file_checks", *COMPUTE},
    "io": {
        *("clustering", "config", "demo", "detectors", "errors", "executor", "file_checks"),
        *("mgvit", "progress", "terminal"),
    },
    "inference": {
        *("config", "curation", "errors", "executor", "io", "progress", "terminal", *COMPUTE),
    },
    "distributed": {"config", "errors", "executor", "mgvit", "progress", "terminal"},
    "curation": {"clustering", "config", "errors", "file_checks", "io", "regions"},
    "report": {
        *("binarization", "config", "curation", "errors", "evaluation", "io", "mgvit", "palette"),
    },
    "comparison": {"evaluation", "peers", "report"},
    "monitoring": {"curation", "evaluation", "io", "report"},
    "exports": {
        *("clustering", "config", "curation", "errors", "io", "mgvit", "palette", "regions"),
    },
    "commands": {
        *(
            "config",
            "curation",
            "distributed",
            "errors",
            "executor",
            "exports",
            "inference",
            "io",
            "monitoring",
            "progress",
            "terminal",
            *COMPUTE,
        ),
    },
    "stages": {"config", "errors", "executor", "palette", "progress", "terminal", *FILES, *COMPUTE},
    "cli": {"commands", "config", "distributed", "errors", "executor", "io", "terminal"},
}
"""The stages themselves are loaded by the CLI, by name."""
NO_FILES = {"dvc", "json", "os", "pathlib", "pyarrow", "ruamel", "shutil", "typer", "yaml", "zarr"}
"""Packages that compute rooms leave to others: they take arrays and return arrays."""
LOAD_NOTHING = {"importlib.metadata", "importlib.resources", "importlib.util"}
"""Parts of importlib that load no module by its name."""
SOURCES = sorted(
    file.relative_to(ROOT)
    for folder in ("pipeline", "stages")
    for file in (ROOT / folder).rglob("*.py")
    if file != ROOT / "pipeline" / "__init__.py"
)


def room(path: Path) -> str:
    """Return the package, or the single module, of a file: `io`, `cli`, `stages`."""
    return "stages" if path.parts[0] == "stages" else Path(path.parts[1]).stem


def packages(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, `__import__` counted as `importlib`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            if not full & LOAD_NOTHING:
                names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Name) and node.id == "__import__":
            names.add("importlib")
    return names


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_room_imports_what_it_may(path: Path) -> None:
    here = room(path)
    allowed = MAY_IMPORT[here] | (set() if here == "stages" else {here})
    assert {room(file) for file in imports(path)} <= allowed
    forbidden = {"benchmarks", "tests"}
    if here in COMPUTE:
        forbidden |= NO_FILES
    if here != "cli":
        forbidden.add("importlib")
    assert not packages(path) & forbidden
