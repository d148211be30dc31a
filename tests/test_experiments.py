"""Every file of conf/experiment, run as its first lines say, shortened."""

import math
import re
from pathlib import Path

import pytest
import yaml
from conftest import CONF, CommandLine, composed

from heterolora.records.load import load
from heterolora.reporting.cells import cells_of, runs_of
from heterolora.reporting.frame import frame
from heterolora.reporting.layout import experiments, read
from heterolora.reporting.tables import report
from heterolora.run import prepare
from heterolora.sites import SHORTCUT_ROLES

pytestmark = pytest.mark.filterwarnings("error:The 'exclude' attribute")

EXPERIMENTS = experiments(CONF / "experiment")


def arms(name: str) -> int:
    """The runs of one task and one seed that its grids ask for, counted from the file's text."""
    count = 0
    for grid in yaml.safe_load(EXPERIMENTS[name].read_text())["hydra"]["sweeper"]["grids"]:
        one = ("task", "task.planting", "seed")
        swept = [str(values) for key, values in grid.items() if key not in one]
        # A comma inside brackets belongs to a value.
        count += math.prod(len(re.sub(r"\[[^]]*\]", "", v).split(",")) for v in swept)
    return count


EMBEDDED = {
    "planted": ["task.planting=0"],
    "screening_scarce": [],
    "study_importance": [],
    "study_r1_4_controls": [],
}
"""Experiments about sites of the embedded model, and what makes them of one task."""


@pytest.fixture
def short(wide: Path, pairs: Path, tmp_path: Path) -> list[str]:
    """What makes any experiment a matter of seconds."""
    return [
        f"model.path={wide}",
        "task=rte",
        f"task.path={pairs}",
        "seed=0",
        "training.epochs=1",
        "training.batch_size=32",
        f"output={tmp_path}",
        "tracking=local",
        "device=cpu",
    ]


def test_every_experiment_is_one_file() -> None:
    files = (CONF / "experiment").rglob("*")
    assert sorted(files) == [*EXPERIMENTS.values()]


def test_runs_are_counted_from_the_grids() -> None:
    """By hand: all on; four proxies, twice; random drawn once; two as printed, twice."""
    assert arms("table2") == 1 + 4 * 2 + 1 + 2 * 2


SHORTENED = [
    pytest.param(name, marks=[pytest.mark.slow] if arms(name) > 3 else []) for name in EXPERIMENTS
]


@pytest.mark.parametrize("name", SHORTENED)
def test_it_runs_and_its_table_shows_every_run(
    name: str, command_line: CommandLine, short: list[str], tmp_path: Path
) -> None:
    header, command, *_ = EXPERIMENTS[name].read_text().splitlines()
    assert header == "# @package _global_"
    sweep = f"-m +experiment={name}"
    assert command in (f"# python train.py {sweep}", f"# python scripts/study.py {name}")
    if name in EMBEDDED:
        short = [one for one in short if not one.startswith(("model", "task"))]
        short += ["training.limit_examples=64", *EMBEDDED[name]]
    done = command_line(*sweep.split(), *short)
    assert done.code == 0, done.err
    records, problems = load(tmp_path)
    assert problems == []
    assert len(records) == arms(name)
    assert all(run.finished for run in records)
    assert {run.setting("name") for run in records} == {name}
    counted = f"{len(records)} run{'s' * (len(records) > 1)}"
    assert f"{counted}: {len(records)} finished, 0 skipped, 0 failed" in done.out
    table, runs = read(EXPERIMENTS[name]), frame(records)
    made = report(table, runs_of(table, runs))
    assert not [text for text in made.notes if "belong to no row" in text]
    if table.report == "rows":
        shown = cells_of(table, runs)
        assert {run.directory for cell in shown for run in cell.runs} == {
            run.directory for run in records
        }
        required = {entry.label for entry in table.entries.values() if not entry.optional}
        lent = {e.label for one in table.borrows for e in read(EXPERIMENTS[one]).entries.values()}
        assert required - lent <= {cell.label for cell in shown if cell.runs}


TABLES = [name for name in EXPERIMENTS if name.startswith("table")]


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_tables_have_its_scaling(name: str) -> None:
    assert composed(f"+experiment={name}").search_space.scaling == "alpha_over_rank"


RATES = [
    ("table2", "mrpc", 3e-4),
    ("table4", "mrpc", 2e-4),
    ("table4", "rte", 2e-4),
    ("table3", "rte", 3e-4),
    ("table9", "rte", 2e-4),
    ("table4", "sst2", 1e-4),
]


@pytest.mark.parametrize(("name", "task", "rate"), RATES)
def test_the_paper_has_these_learning_rates(name: str, task: str, rate: float) -> None:
    """Tables 7 and 8, and for Table 2 the authors' logs."""
    cfg = composed(f"+experiment={name}", f"task={task}", "model=opt_350m")
    assert cfg.optimizer.learning_rate == rate
    assert (cfg.training.batch_size, cfg.task.max_length, cfg.precision) == (8, 512, "fp32")


def test_table_4_is_about_shortcuts_at_one_budget(checkpoints: dict[str, Path]) -> None:
    path = f"model.path={checkpoints['opt-post-norm']}"
    config = prepare(composed("+experiment=table4", path, "rank_budget=r8", "device=cpu"))
    assert config.search_space.projections == ("q", "v")
    assert config.search_space.shortcuts == SHORTCUT_ROLES
    assert config.rank_budget.ranks() == {"lora": 8, "shortcut": 8}
    assert (config.proxy and config.proxy.name) == "gradnorm"
    assert config.strategy.enable_rate == 0.25
