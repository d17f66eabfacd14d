"""The import graph of the project, read from the source, and the code deps of dvc.yaml that follow.

`python -m tests.graph` rewrites the code deps of dvc.yaml and of compare/dvc.yaml.
"""

from __future__ import annotations

import ast
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "stages")
CONFIG = Path("pipeline", "config")
"""No code dep: what its values are is tracked by `params:`."""
PIPELINES = ("dvc.yaml", "compare/dvc.yaml")
TEMPLATES = {"report": "pipeline/report/templates", "compare": "pipeline/comparison/templates"}
PEERS = Path("pipeline", "peers")
REGISTRIES = {PEERS / "rows.py", PEERS / "deep_rows.py"}
"""They name the methods of the comparison: no code of the stage `peer`, which runs one."""
OWN_METHOD = "pipeline/peers/${item.method}.py"


def module_path(name: str) -> Path | None:
    """Return the file of a project module, relative to the root, or None."""
    if name.split(".")[0] not in PACKAGES:
        return None
    path = Path(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / candidate).exists():
            return candidate
    return None


def imports(path: Path) -> set[Path]:
    """Return the project files that a project file imports directly."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {file for name in names if (file := module_path(name)) is not None}
    return {file for file in found if (ROOT / file).stat().st_size > 0}


def closure(path: Path) -> set[Path]:
    """Return a file and everything of the project that it imports, directly or not."""
    seen: set[Path] = set()
    todo = [path]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo.extend(imports(current))
    return seen


def expected_code(stage: str) -> list[str]:
    """Return the code deps that dvc.yaml should list for a stage."""
    templates = sorted(
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / TEMPLATES[stage]).glob("*")
        if file.is_file()
    ) if stage in TEMPLATES else []  # fmt: skip
    files = closure(Path("stages") / f"{stage}.py")
    if stage == "peer":
        files -= REGISTRIES | methods()
        templates = [OWN_METHOD]
    return sorted(f.as_posix() for f in files if not f.is_relative_to(CONFIG)) + templates


def methods() -> set[Path]:
    """Return the modules of pipeline/peers that are methods: they have rows in a registry."""
    named = {file for registry in REGISTRIES if (ROOT / registry).exists()
             for file in imports(registry)}  # fmt: skip
    return {f for f in named if f.parent == PEERS} - REGISTRIES - {PEERS / "base.py"}


def is_code(dep: str) -> bool:
    """Tell code deps of dvc.yaml from data deps."""
    return dep.split("/")[0] in PACKAGES


def rewrite() -> None:
    """Put the expected code deps into the files of stages, before the data deps."""
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    for path in (ROOT / name for name in PIPELINES):
        content = yaml.load(path)
        for name, stage in content["stages"].items():
            data = [dep for dep in stage.get("deps", []) if not is_code(dep)]
            stage["deps"] = expected_code(name) + data
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(content, file)


if __name__ == "__main__":
    rewrite()
