"""No command destroys what it did not make."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.params import Demo, Params
from pipeline.config.section import ConfigError
from pipeline.curation.names import ClassNames, read_names, run_of, set_name
from pipeline.curation.promotion import promote
from pipeline.demo.camera import PRODUCTS
from pipeline.io.files import replacing, replacing_folder
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CLASSIFIED, LABELS
from pipeline.io.tables import read_parquet, write_parquet
from stages import demo
from tests.discovered_data import write_discovered
from tests.graph import ROOT
from tests.running import run_stage

SMALL = Params(demo=Demo(good=1, per_defect=1, normals=1))


def contents(root: Path) -> dict[str, object]:
    """Return every path below `root` with what is there: bytes, the target of a link, or None."""
    return {
        path.relative_to(root).as_posix(): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in root.rglob("*")
    }


# classify --out


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run of category c, whose images are classified without any work."""
    write_discovered(tmp_path)
    monkeypatch.chdir(tmp_path)
    empty = pd.DataFrame(columns=CLASSIFIED.names)
    done = tmp_path / "classified"
    monkeypatch.setattr("pipeline.commands.classify.promise_of_run", lambda *_: None)
    monkeypatch.setattr(
        "pipeline.commands.classify.classify_images", lambda *_: (done.touch(), (empty, []))[1]
    )
    return tmp_path


def classify(out: str) -> tuple[int, str]:
    arguments = ["classify", "raw/c", "--category", "c", "--out", out]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("thesis", "is a folder"),
        ("data", "is a folder"),
        ("raw/c", "is a folder"),
        ("link", "is a folder"),
        (".", "is a folder"),
        ("..", "is a folder"),
        ("raw/c/d.png", "no table of `classify`"),
        ("dangling", "no table of `classify`"),
        ("pipe", "no table of `classify`"),
        ("labels.parquet", "no table of `classify`"),
        ("foreign.parquet", "no table of `classify`"),
    ],
)
def test_classify_writes_over_nothing_but_its_own_tables(
    project: Path, out: str, said: str
) -> None:
    (project / "thesis").mkdir()
    (project / "thesis" / "thesis.txt").write_text("years")
    (project / "link").symlink_to("thesis")
    (project / "dangling").symlink_to("nothing")
    os.mkfifo(project / "pipe")
    write_parquet(project / "labels.parquet", pd.DataFrame(columns=LABELS.names), LABELS)
    pd.DataFrame(columns=CLASSIFIED.names).to_parquet(project / "foreign.parquet")
    before = contents(project)
    code, text = classify(out)
    assert code == 1
    assert f"--out: {out} " in text
    assert said in text
    assert contents(project) == before  # not even the work was done


def test_classify_replaces_a_table_of_its_own(project: Path) -> None:
    for _ in range(2):
        assert classify("new/found.parquet")[0] == 0
    assert read_parquet(project / "new/found.parquet", CLASSIFIED).empty


def test_only_a_caller_that_says_so_takes_a_folder_away(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").touch()

    def write() -> None:
        with replacing(tmp_path / "kept") as temporary:
            temporary.write_text("b")

    with pytest.raises(IsADirectoryError, match="kept is a folder"):
        write()
    assert contents(tmp_path) == {"kept": None, "kept/a": b""}
    with replacing_folder(tmp_path / "kept") as temporary:
        temporary.mkdir()
    assert contents(tmp_path) == {"kept": None}


# data/raw/demo


@pytest.mark.parametrize(
    "file", ["metal/mine.png", "fabric/test/mine/000.png", "metal/test/good/IMG_1.png"]
)
def test_the_demo_refuses_what_it_did_not_make(tmp_path: Path, file: str) -> None:
    paths = ArtifactPaths(tmp_path)
    run_stage(demo, None, SMALL, paths)
    mine = paths.raw_demo() / file
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=rf"{mine.name} is not of the demo.*move it"):
        run_stage(demo, None, SMALL, paths)
    assert contents(tmp_path) == before


def test_the_demo_leaves_folders_beside_its_own_alone(tmp_path: Path) -> None:
    mine = ArtifactPaths(tmp_path).raw_demo() / "mine" / "a.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    run_stage(demo, None, SMALL, ArtifactPaths(tmp_path))
    run_stage(demo, None, SMALL, ArtifactPaths(tmp_path))
    assert mine.read_text() == "mine"
    shutil.rmtree(mine.parents[1] / "metal")
    (mine.parents[1] / "metal").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="metal is not of the demo"):
        run_stage(demo, None, SMALL, ArtifactPaths(tmp_path))


def test_doctor_finds_images_where_the_demo_s_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    run_stage(demo, None, SMALL, ArtifactPaths(tmp_path / "data"))
    assert "is not part of the demo" not in CliRunner().invoke(app, ["doctor"]).output
    (tmp_path / "data/raw/demo/metal/mine.png").touch()
    text = CliRunner().invoke(app, ["doctor"]).output
    assert re.search(
        r"^error +demo +data/raw/demo/metal/mine\.png is not part of the demo", text, re.M
    )


@pytest.mark.slow
def test_dvc_leaves_what_people_put_beside_the_demo(tmp_path: Path) -> None:
    stage = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]["demo"]
    stage |= {"cmd": f"{sys.executable} -m pipeline.cli demo", "deps": ["params.yaml"]}
    with (tmp_path / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": {"demo": stage}}, file)
    params = "demo: {{good: {}, per_defect: 1, normals: 1, seed: 0}}\n"
    (tmp_path / "params.yaml").write_text(params.format(1))

    def dvc(*arguments: str) -> int:
        command = [sys.executable, "-m", "dvc", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, check=False
        ).returncode

    assert dvc("init", "--no-scm", "-q") == 0
    assert dvc("repro") == 0
    raw = tmp_path / "data/raw/demo"
    (raw / "mine").mkdir()
    (raw / "mine" / "a.png").write_text("mine")
    assert dvc("repro") == 0
    (tmp_path / "params.yaml").write_text(params.format(2))
    assert dvc("repro") == 0
    assert dvc("checkout", "--force") == 0
    assert (raw / "mine" / "a.png").read_text() == "mine"
    assert (raw / "metal/test/good/001.png").exists()
    (raw / "metal" / "inside.png").write_text("mine")
    assert dvc("repro") != 0
    assert dvc("checkout") != 0
    (tmp_path / "params.yaml").write_text(params.format(1))
    assert dvc("repro") != 0
    assert (raw / "metal" / "inside.png").read_text() == "mine"


def test_dvc_yaml_has_an_output_for_each_product_that_dvc_does_not_remove() -> None:
    outs = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]["demo"]["outs"]
    assert outs == [{f"data/raw/demo/{product}": {"persist": True}} for product in PRODUCTS]


# promote


def promoted(root: Path, category: str, target: Path, names: dict[int, str]) -> None:
    """Promote named classes of the one run there is, under the name of any category."""
    paths = ArtifactPaths(root / "data")
    if category != "c":
        for stage in ("manifest", "mebin", "crops", "predict"):
            shutil.copytree(root / "data" / stage / "c", root / "data" / stage / category)
    promote(category, root / "raw" / "c", paths, ClassNames(names), target)


def test_promotions_of_categories_that_begin_alike_stay(tmp_path: Path) -> None:
    write_discovered(tmp_path)
    base = tmp_path / "base"
    promoted(tmp_path, "c long", base, {1: "head"})
    before = contents(base)
    assert "images/c long head" in before
    promoted(tmp_path, "c", base, {1: "head"})
    assert before.keys() < contents(base).keys()
    promoted(tmp_path, "*", base, {1: "head"})
    assert before.keys() < contents(base).keys()


def test_a_promotion_replaces_its_own_and_nothing_else(tmp_path: Path) -> None:
    write_discovered(tmp_path)
    base = tmp_path / "base"
    mine = ["images/c head/000.png", "masks/c head/000.png", "images/c tail/1.png"]
    for file in mine:
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        (base / file).write_text("mine")
    promoted(tmp_path, "c", base, {1: "head", 2: "point"})
    assert (base / "images" / "c point").is_dir()
    promoted(tmp_path, "c", base, {3: "edge"})
    assert all((base / file).read_text() == "mine" for file in mine)
    files = {file for file, content in contents(base).items() if content is not None}
    others = files - {*mine, "promoted.json"}
    assert others
    assert all(file.split("/")[1] == "c edge" for file in others)
    assert not (base / "images" / "c point").exists()


def test_a_promotion_overwrites_no_file_of_others(tmp_path: Path) -> None:
    write_discovered(tmp_path)
    mine = tmp_path / "base/images/c head" / f"{0:016x}.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    before = contents(tmp_path / "base")
    with pytest.raises(ConfigError, match="is not listed in"):
        promoted(tmp_path, "c", tmp_path / "base", {1: "head"})
    assert contents(tmp_path / "base") == before


@pytest.mark.parametrize(
    "listed", ["[]", '{"c": 1}', '{"c": ["../a.png"]}', '{"c": ["images/../a.png"]}']
)
def test_a_list_that_leads_elsewhere_is_refused(tmp_path: Path, listed: str) -> None:
    write_discovered(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "a.png").touch()
    (tmp_path / "base" / "a.png").touch()
    (tmp_path / "base" / "a.png").rename(tmp_path / "b.png")
    (tmp_path / "base" / "promoted.json").write_text(listed)
    with pytest.raises(ConfigError, match="not a list of promoted files"):
        promoted(tmp_path, "c", tmp_path / "base", {1: "head"})
    assert (tmp_path / "a.png").exists()


# name


OLD = """\
# what we agreed on
fabric:
  2: hole  # ask Ada
metal:
  run: old
  1: dent
  5: stain  # rare
"""


def test_names_of_an_earlier_run_are_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(OLD)
    assert set_name(path, "metal", 3, "new", "0d3f5a1b2c4e") == tmp_path / "names.yaml.old"
    assert (tmp_path / "names.yaml.old").read_text() == OLD
    assert read_names(path)["metal"] == ClassNames({3: "new"}, "0d3f5a1b2c4e")
    path.write_text(OLD)
    set_name(path, "metal", 3, "new", "0d3f5a1b2c4e")
    assert (tmp_path / "names.yaml.old2").read_text() == OLD


def test_name_says_where_the_earlier_names_are(tmp_path: Path) -> None:
    write_discovered(tmp_path)
    names = tmp_path / "names.yaml"
    names.write_text("c: {run: old, 1: dent}\n")
    options = ["--data", str(tmp_path / "data"), "--names", str(names)]
    text = CliRunner().invoke(app, ["name", "c", "2", "new", *options]).output
    assert f"kept them in {names}.old" in text
    assert "kept them in" not in CliRunner().invoke(app, ["name", "c", "3", "x", *options]).output
    run = run_of(ArtifactPaths(tmp_path / "data"), "c")
    assert read_names(names)["c"] == ClassNames({2: "new", 3: "x"}, run)


def test_comments_order_and_other_categories_stay(tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(OLD)
    assert set_name(path, "metal", 3, "new", "old") is None
    assert path.read_text() == OLD.replace("  5:", "  3: new\n  5:")
    path.write_text("# none yet\n")
    set_name(path, "metal", 3, "new", "old")
    assert path.read_text() == "# none yet\nmetal:\n  run: old\n  3: new\n"
