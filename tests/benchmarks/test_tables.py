"""The ablation tables: what is run for each row, what is kept, and what is printed. No training."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import tables as cli
from benchmarks.plan import Job, Table, TablesError, load_tables, plan
from benchmarks.records import Record, add_record, find_record, markdown, read_records
from benchmarks.runs import Workspace, command_of, run_command, run_jobs
from pipeline.config.params import Params, load_params
from pipeline.config.presets import read_preset, with_overrides
from tests.graph import ROOT

TABLES = load_tables()
PARAMS = load_params(ROOT / "params.yaml")
DATA = {"ANOMALYNCD_DATA": "/data"}
HEADS_ONLY = {4, 5, 7, 9, 15}


def jobs_of(number: int, data: str = "metal", seeds: Sequence[int] = (0,)) -> list[Job]:
    return plan(TABLES, number, data, seeds=seeds, params=PARAMS, environment=DATA)


@dataclass
class Fake:
    """Stands for git and DVC: writes metrics.json and, as DVC does, changes params.yaml."""

    root: Path
    commit: str = "c1"
    changed: str = ""
    params_changed: bool = False
    fails: dict[str, str] = field(default_factory=dict)
    interrupts: str = "never"
    started: list[list[str]] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)

    def __call__(self, command: Sequence[str], folder: Path) -> tuple[int, str]:
        assert folder == self.root
        if command[0] == "git":
            answers = {"rev-parse": self.commit + "\n", "status": self.changed, "diff": ""}
            return int(command[1] == "diff" and self.params_changed), answers[command[1]]
        self.started.append(list(command))
        params = self.root / "params.yaml"
        self.seen.append(params.read_bytes())
        params.write_text("changed by DVC")
        name, category = command[4], command[-1].split("@")[1]
        if self.interrupts in name:
            raise KeyboardInterrupt
        for part, text in self.fails.items():
            if part in name:
                return 1, text
        path = self.root / "data" / "evaluate" / category / "metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        nmi = len(self.started) / 10
        path.write_text(json.dumps({"nmi": nmi, "ari": -0.013, "f1": 1.0, "n_query": 9, "x": None}))
        return 0, "fine"


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return Fake(tmp_path)


def redo(fake: Fake, jobs: Sequence[Job], *, force: bool = False) -> int:
    """Run jobs; return how many of them DVC saw."""
    before = len(fake.started)
    run_jobs(jobs, Workspace(fake.root, fake), stamp="1", force=force)
    return len(fake.started) - before


@pytest.mark.parametrize("data", TABLES.data)
@pytest.mark.parametrize("number", TABLES.tables)
def test_every_row_gives_valid_parameters_of_its_own(number: int, data: str) -> None:
    """`plan` validates against Params; no two rows of a table may be the same run."""
    jobs = jobs_of(number, data)
    assert len({job.params for job in jobs}) == len(jobs)
    assert [j.row for j in jobs] == [
        r.name for r in TABLES.tables[number].rows if r.set is not None
    ]
    assert {job.category for job in jobs} == {data}


def test_the_tables_are_the_papers() -> None:
    assert set(TABLES.tables) == {2, 3, 4, 5, 6, 7, 8, 9, 14, 15, 16}
    assert TABLES.common == read_preset(ROOT / "params" / "paper.yaml")
    assert {n for n, table in TABLES.tables.items() if table.heads_only} == HEADS_ONLY


@pytest.mark.parametrize("number", set(TABLES.tables) - {14})
def test_each_table_has_the_papers_own_setting_once(number: int) -> None:
    """.613/.526/.712 (MTD .268/.228/.509) is AnomalyNCD with MuSc in all of them."""
    rows = TABLES.tables[number].rows
    own = [row for row in rows if row.mvtec and row.mvtec[-3:] == [0.613, 0.526, 0.712]]
    assert len(own) == 1
    if any(row.mtd for row in rows):
        assert own[0].mtd == [0.268, 0.228, 0.509]
    if number != 9:  # the paper has a base set, we have none
        job = next(job for job in jobs_of(number) if job.row == own[0].name)
        seeds = {"train.seed": 0, "predict.seed": 0}
        plain = with_overrides(PARAMS, {"dataset.categories": ["metal"], **TABLES.common, **seeds})
        assert with_overrides(plain, own[0].set or {}) == plain
        assert job.params == jobs_of(6)[-1].params


def test_rows_need_as_many_figures_as_the_table() -> None:
    with pytest.raises(ValueError, match="row 'a' needs 3 figures"):
        Table.model_validate({"title": "t", "rows": [{"name": "a", "mvtec": [0.1]}]})


def test_the_command_of_a_run() -> None:
    job = jobs_of(3, "bottle", [7])[0]
    command = command_of(job, "stamp")
    assert command[:5] == ["dvc", "exp", "run", "-n", "table3-bottle-threshold-0-1-seed7-stamp"]
    assert command[-1] == "evaluate@bottle"
    assert command[5:-1:2] == ["-S"] * len(command[5:-1:2])
    assert set(command[6:-1:2]) == {
        "dataset.root=/data/mvtec",
        "dataset.categories=[bottle]",
        "classes.count=4",
        "maps.method=musc",
        "maps.resolution=448",
        "maps.neighbourhoods=[1,3,5]",
        "predict.classifier=heads",
        "predict.normal=none",
        "mebin.method=fixed",
        "mebin.fixed_threshold=0.1",
        "train.seed=7",
        "predict.seed=7",
    }
    assert "$ANOMALYNCD_DATA/mvtec" in job.settings
    assert job.overrides == "mebin.method=fixed mebin.fixed_threshold=0.1"


def test_seeds_are_innermost_and_a_row_wins_over_what_is_set_for_all() -> None:
    jobs = plan(
        TABLES, 16, "metal", seeds=[2, 1, 2], params=Params(), environment={},
        extra={"mebin.tau": 9, "train.epochs": 2},
    )  # fmt: skip
    assert [(job.row, job.seed) for job in jobs[:3]] == [("2", 2), ("2", 1), ("3", 2)]
    assert "mebin.tau=2" in jobs[0].options
    assert "train.epochs=2" in jobs[0].options


@pytest.mark.parametrize(
    ("number", "data", "environment", "extra", "message"),
    [
        (1, "metal", DATA, {}, "there is no table 1: use 2, 3"),
        (6, "wood", DATA, {}, "there is no data set 'wood': use metal"),
        (6, "mtd", {}, {}, "ANOMALYNCD_DATA is not set"),
        (6, "mtd", {"ANOMALYNCD_DATA": "/my data"}, {}, "dataset.root: '/my data' would need"),
        (6, "metal", DATA, {"mebin.tua": 3}, "table 6, row 'mean': mebin.tua: unknown key"),
        (6, "metal", DATA, {"mebin.tau": 0}, "row 'mean': overrides: mebin.tau"),
        (6, "metal", DATA, {"dataset.categories": ["a", "b"]}, "one category"),
        (5, "metal", DATA, {"predict.classifier": "mixture"}, "--classifier heads"),
    ],
)
def test_what_cannot_be_run_is_refused(
    number: int, data: str, environment: dict[str, str], extra: dict[str, object], message: str
) -> None:
    with pytest.raises(TablesError) as error:
        plan(TABLES, number, data, seeds=[0], params=PARAMS, environment=environment, extra=extra)
    assert message in str(error.value)


@pytest.mark.parametrize("number", TABLES.tables)
def test_the_mixture_is_refused_where_only_the_heads_differ(number: int) -> None:
    def jobs() -> list[Job]:
        return plan(
            TABLES, number, "metal", seeds=[0], params=PARAMS, environment=DATA,
            classifier="mixture",
        )  # fmt: skip

    if number in HEADS_ONLY:
        with pytest.raises(TablesError, match="run it with --classifier heads"):
            jobs()
    else:
        wanted = {"predict.classifier=mixture", "predict.normal=scores"}
        assert all(wanted <= set(job.options) for job in jobs())


def test_every_run_starts_from_params_yaml_and_leaves_it(fake: Fake) -> None:
    committed = (ROOT / "params.yaml").read_bytes()
    assert redo(fake, jobs_of(6, seeds=[0, 1])) == 6
    assert fake.seen == [committed] * 6
    assert (fake.root / "params.yaml").read_bytes() == committed


def test_ctrl_c_restores_params_yaml_and_the_table_goes_on(fake: Fake) -> None:
    jobs = jobs_of(6, seeds=[0, 1])
    fake.interrupts = "score-seed1"
    with pytest.raises(KeyboardInterrupt):
        redo(fake, jobs)
    assert (fake.root / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    records = read_records(fake.root / "data/tables/6-metal.csv")
    assert [(r.row, r.seed) for r in records] == [("mean", 0), ("mean", 1), ("score", 0)]
    fake.interrupts = "never"
    assert redo(fake, jobs) == 3


def test_what_is_known_is_not_run_again(fake: Fake) -> None:
    jobs = jobs_of(6)
    path = fake.root / "data/tables/6-metal.csv"
    assert redo(fake, jobs) == 3
    first = read_records(path)
    assert redo(fake, jobs) == 0
    assert read_records(path) == first
    assert redo(fake, jobs, force=True) == 3
    fake.commit = "c2"
    assert redo(fake, jobs) == 3
    assert [record.commit for record in read_records(path)] == ["c2"] * 3
    fake.changed = " M pipeline/binarization/mebin.py\n"
    assert redo(fake, jobs) == 3
    assert redo(fake, jobs) == 3
    assert read_records(path)[0].commit == "c2-dirty"


def test_the_same_parameters_in_two_tables_are_run_once(fake: Fake) -> None:
    assert redo(fake, jobs_of(6)) == 3
    assert redo(fake, jobs_of(5)) == 4  # L_m = 9 is the row "area" of table 6
    known = read_records(fake.root / "data/tables/6-metal.csv")[2]
    copied = next(r for r in read_records(fake.root / "data/tables/5-metal.csv") if r.row == "9")
    assert copied.metrics == known.metrics
    assert copied.overrides == "views.mask_layers=9"
    assert redo(fake, jobs_of(6, "fabric")) == 3


def test_a_failing_run_is_a_row_and_the_rest_goes_on(fake: Fake) -> None:
    log = "views: 1 of 2\n> anomalyncd crops\nanomalyncd crops: no region found\nERROR: failed\n"
    fake.fails = {"mean": log, "area": ""}
    assert redo(fake, jobs_of(6)) == 3
    records = read_records(fake.root / "data/tables/6-metal.csv")
    assert [record.error for record in records] == [
        "anomalyncd crops: no region found", "", "exit status 1",
    ]  # fmt: skip
    assert records[0].metrics["nmi"] is None
    text = markdown(6, TABLES.tables[6], "metal", records)
    assert "| mean | - (failed: 0) | anomalyncd crops: no region found | .610/.521/.709 |" in text
    fake.fails = {}
    assert redo(fake, jobs_of(6)) == 2


def test_changed_parameters_are_refused(fake: Fake) -> None:
    fake.params_changed = True
    with pytest.raises(TablesError, match=r"params\.yaml differs.*git checkout HEAD"):
        redo(fake, jobs_of(6))
    assert not fake.started


def test_records_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "6-metal.csv"
    first = Record("a", 0, "", "c", "p", "s=[1,2]", "o=1", {"nmi": 0.1 + 0.2, "ari": None})
    second = Record("a", 1, 'said "no",\nand stopped', "c", "q", "s=[1,2]", "o=1")
    add_record(path, first)
    add_record(path, second)
    assert read_records(path)[0] == first
    assert read_records(path)[1].error == second.error
    newer = Record("a", 0, "", "d", "p", "s=[1,2]", "o=1", {"nmi": 0.5, "ari": 0.5, "aupro": 1.0})
    add_record(path, newer)
    assert [record.commit for record in read_records(path)] == ["c", "d"]
    assert read_records(path)[1] == newer
    assert [file.name for file in tmp_path.iterdir()] == ["6-metal.csv"]


def test_errors_are_no_figures() -> None:
    job = jobs_of(6)[0]
    record = Record(job.row, job.seed, "broken", "c", job.params, job.settings, job.overrides)
    assert find_record([record], job, "c") is None


def test_the_markdown_of_a_table() -> None:
    def record(row: str, seed: int, nmi: float, settings: str = "a=1") -> Record:
        figures = {"nmi": nmi, "ari": -0.0134, "f1": 1.0}
        return Record(row, seed, "", "c1", "p", settings, "", figures)

    table = Table.model_validate(
        {
            "title": "things",
            "rows": [
                {"name": "x", "set": {}, "mvtec": [0.6, 0.5, 0.7], "mtd": [0.1, 0.2, 0.3]},
                {"name": "y", "set": {}, "mvtec": [0.6, 0.5, 0.75]},
                {"name": "theirs", "mvtec": [0.5, 0.4, 0.6]},
            ],
        }
    )
    records = [record("x", 0, 0.4), record("x", 1, 0.6), record("y", 1, 0.25)]
    other = record("x", 5, 0.9, "a=2")
    first, second = markdown(99, table, "metal", [*records, other]).split("\n\n### ")
    assert first.splitlines() == [
        "### Table 99, things: metal",
        "",
        "`a=1`, commit c1. nmi/ari/f1: mean over the seeds, standard deviation of nmi in brackets.",
        "",
        "| row | seeds | ours, metal | paper, MVTec AD | paper, MTD |",
        "| --- | --- | --- | --- | --- |",
        "| x | 0, 1 | .500/-.013/1.000 (.141) | .600/.500/.700 | .100/.200/.300 |",
        "| y | 1 | .250/-.013/1.000 | .600/.500/.750 | - |",
        "| theirs | - | - | .500/.400/.600 | - |",
    ]
    assert "`a=2`" in second
    assert "| x | 5 | .900/-.013/1.000 |" in second


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, cli.spread(arguments))
    return result.exit_code, result.output


def test_the_command_line(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "WORKSPACE", Workspace(fake.root, fake))
    monkeypatch.delenv("ANOMALYNCD_DATA", raising=False)
    assert "16  shortest stable run" in command("--list")[1]
    assert "no figures yet" in command("--render")[1]
    code, text = command("6", "--dry-run", "--seeds", "0", "1", "--set", "maps.layers=[1, 2]")
    assert code == 0
    assert text.count("dvc exp run -n table6-metal-") == 6
    assert "-S 'maps.layers=[1,2]'" in text
    assert not fake.started
    code, text = command("6", "--seeds", "0", "1")
    assert code == 0
    assert "| area | 0, 1 | .550/-.013/1.000 (.071) | .613/.526/.712 | .268/.228/.509 |" in text
    assert command("--render")[1] in text
    command("6", "--set", "train.epochs=2")
    assert "train.epochs=2" in command("--render")[1]
    assert "train.epochs=2" not in command("6", "--seeds", "0")[1]


def test_all_leaves_out_what_cannot_be_run(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "WORKSPACE", Workspace(fake.root, fake))
    monkeypatch.delenv("ANOMALYNCD_DATA", raising=False)
    code, text = command("all", "--dry-run")
    assert code == 0
    assert text.count("left out: ") == 1
    assert "ANOMALYNCD_DATA" in text
    assert "table15-" in text
    code, text = command("all", "--dry-run", "--classifier", "mixture")
    assert text.count("left out: ") == len(HEADS_ONLY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a table"),
        (("five",), "name a table"),
        (("7", "--classifier", "mixture"), "run it with --classifier heads"),
        (("6", "--set", "train.epochs"), "write key=value"),
        (("6", "--set", "train.epochs=["), "--set train.epochs=["),
        (("all", "--data", "wood"), "nothing to run"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    code, text = command(*arguments)
    assert code == 1
    assert message in text
    assert "Traceback" not in text


def test_seeds_take_all_numbers_that_follow() -> None:
    spread = cli.spread(["5", "--seeds", "0", "1", "--force", "6", "--seeds", "2"])
    assert spread == ["5", "--seeds", "0", "--seeds", "1", "--force", "6", "--seeds", "2"]
    assert cli.spread(["5", "--seeds"]) == ["5", "--seeds"]


def test_a_command_is_run_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import os, sys; print(os.getcwd()); print('err', file=sys.stderr); sys.exit(3)"
    status, text = run_command([sys.executable, "-c", code], tmp_path)
    assert status == 3
    assert set(text.split()) == {str(tmp_path), "err"}
    assert set(capsys.readouterr().err.split()) == {str(tmp_path), "err"}


def test_dvc_has_to_be_there(fake: Fake) -> None:
    def run(command: Sequence[str], folder: Path) -> tuple[int, str]:
        if command[0] == "dvc":
            raise FileNotFoundError
        return fake(command, folder)

    with pytest.raises(TablesError, match="activate the environment"):
        run_jobs(jobs_of(6), Workspace(fake.root, run), stamp="1")
