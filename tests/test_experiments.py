"""Every file of conf/experiment, run as its first lines say, shortened."""

import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import CONF, CommandLine, composed, edited
from omegaconf import DictConfig, OmegaConf

from heterolora.harness.records.load import load
from heterolora.harness.reporting.entries import entries_of
from heterolora.harness.reporting.frame import frame, runs_of
from heterolora.harness.reporting.layout import Table, experiments, read
from heterolora.harness.reporting.tables.build import report
from heterolora.harness.runs.execute import prepare
from heterolora.sites import SHORTCUT_ROLES

pytestmark = pytest.mark.filterwarnings("error:The 'exclude' attribute")

EXPERIMENTS = experiments(CONF / "experiment")


RATE = "optimizer.learning_rate"


def grids(name: str) -> list[dict[str, str]]:
    """As in the experiment's file, or in that from which it inherits, each value as text."""
    content = yaml.safe_load(EXPERIMENTS[name].read_text())
    if "hydra" not in content:
        return grids(content["defaults"][0])
    made = content["hydra"]["sweeper"]["grids"]
    return [{key: str(values) for key, values in grid.items()} for grid in made]


def values_of(text: str) -> list[str]:
    """A comma inside brackets belongs to a value."""
    return re.sub(r"\[[^]]*\]", "[]", text).split(",")


def arms(name: str, *given: str) -> int:
    """The runs of one task and one seed that its grids ask for, counted from the file's text.

    Keys of which one value is given on the command line count once.
    """
    one = ("task", "task.planting", "seed", *given)
    return sum(
        math.prod(len(values_of(text)) for key, text in grid.items() if key not in one)
        for grid in grids(name)
    )


def rates(name: str) -> list[str]:
    """The learning rates that its grids ask for."""
    return sorted({rate for grid in grids(name) if RATE in grid for rate in values_of(grid[RATE])})


EMBEDDED = ("planted", "screening_scarce", "study_importance", "study_r1_4_controls")
"""Experiments about sites of the embedded model."""


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


def shortened(name: str, short: list[str]) -> list[str]:
    """What makes this experiment short."""
    if name == "planted":
        kept = [one for one in short if not one.startswith(("model.", "task"))]
        return [*kept, "training.limit_examples=64", "task.planting=0"]
    return [one for one in short if not (name in EMBEDDED and one.startswith("model."))]


def test_every_experiment_is_one_file() -> None:
    files = (CONF / "experiment").rglob("*")
    assert sorted(files) == [*EXPERIMENTS.values()]


def test_runs_are_counted_from_the_grids() -> None:
    """By hand: all on; four proxies, twice; random drawn once; two as printed, twice."""
    assert arms("table2") == 1 + 4 * 2 + 1 + 2 * 2


ALONE = [name for name in EXPERIMENTS if arms(name) == 1]
"""Experiments of a single run are in the default suite."""
TUNED = [name for name in EXPERIMENTS if len(rates(name)) > 1 and name != "learning_rate"]
"""They try several learning rates; one is enough to see each row, and that one is about them."""
SHORTENED = [
    *((name, "") for name in ALONE),
    *(
        pytest.param(name, f"{RATE}=1e-3" if name in TUNED else "", marks=pytest.mark.slow)
        for name in EXPERIMENTS
        if name not in ALONE
    ),
    *(pytest.param(name, "", marks=pytest.mark.exhaustive) for name in TUNED),
]


@pytest.mark.parametrize(("name", "given"), SHORTENED)
def test_it_runs_and_its_table_shows_every_run(
    name: str, given: str, command_line: CommandLine, short: list[str], tmp_path: Path
) -> None:
    """The runs of an experiment of many share their passes."""
    header, command, *_ = EXPERIMENTS[name].read_text().splitlines()
    assert header == "# @package _global_"
    sweep = f"-m +experiment={name}"
    assert command in (f"# python train.py {sweep}", f"# python scripts/study.py {name}")
    more = [*filter(None, [given]), *(["hydra/launcher=packed"] if name not in ALONE else [])]
    done = command_line(*sweep.split(), *shortened(name, short), *more)
    assert done.code == 0, done.err
    records, problems = load(tmp_path)
    assert problems == []
    assert len(records) == arms(name, given.partition("=")[0])
    assert all(run.finished for run in records)
    assert {run.setting("name") for run in records} == {name}
    counted = f"{len(records)} run{'s' * (len(records) > 1)}"
    assert f"{counted}: {len(records)} finished, 0 skipped, 0 failed" in done.out
    table, runs = read(EXPERIMENTS[name]), frame(records)
    made = report(table, runs_of(table, runs))
    assert not [text for text in made.notes if "belong to no row" in text]
    if table.report == "rows":
        shown = entries_of(table, runs)
        assert {run.directory for entry in shown for run in entry.runs} == {
            run.directory for run in records
        }
        required = {cell.label for cell in table.cells.values() if not cell.optional}
        lent = {e.label for one in table.borrows for e in read(EXPERIMENTS[one]).cells.values()}
        assert required - lent <= {entry.label for entry in shown if entry.runs}


@functools.cache
def whole(name: str) -> DictConfig:
    """As composed for its own task and model, once for all tests that read it."""
    return composed(f"+experiment={name}", "device=cpu", "tracking=local")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_table_is_what_hydra_composes(name: str) -> None:
    """Reports read it without Hydra: what one inherits must be the same in both."""
    table = OmegaConf.to_container(whole(name).table)
    assert isinstance(table, dict)
    assert read(EXPERIMENTS[name]) == Table.model_validate({**table, "name": name})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_is_valid_at_every_learning_rate(name: str, wide: Path) -> None:
    model = [] if name in EMBEDDED else [f"model.path={wide}"]
    for rate in rates(name) or [whole(name).optimizer.learning_rate]:
        assert prepare(edited(whole(name), *model, f"{RATE}={rate}")).name == name


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("table")])
def test_the_papers_tables_have_its_scaling_and_precision(name: str) -> None:
    assert whole(name).search_space.scaling == "alpha_over_rank"
    assert whole(name).precision == "fp32"


Recipe = tuple[int, int, float, int]
RECIPES: dict[str, Recipe] = {
    "mrpc": (20, 8, 2e-4, 512),
    "rte": (20, 8, 3e-4, 512),
    "sst2": (10, 8, 1e-4, 512),
}
"""Epochs, batch size, learning rate and length of the paper's model: its Table 7."""
VARIANTS: dict[str, dict[str, Recipe]] = {
    "table2": {"mrpc": (20, 8, 3e-4, 512)},
    "table8": {"rte": (20, 8, 2e-4, 512)},
}
"""Where the paper departs from it: in its Table 8, and for its Table 2 in the authors' logs."""
STARTER: Recipe = (5, 16, 1e-3, 128)
"""Of the embedded model, every number another."""


def recipe(cfg: DictConfig) -> Recipe:
    training = cfg.training
    return training.epochs, training.batch_size, cfg.optimizer.learning_rate, cfg.task.max_length


def of_the_paper() -> Iterator[tuple[str, str]]:
    """Each experiment of the paper's model, and the variant of its recipes that it takes."""
    for name, file in EXPERIMENTS.items():
        text = file.read_text()
        variant = re.search(r"override /recipe/variant: (\w+?)_", text)
        if "override /model: opt_350m\n" in text:
            yield name, variant[1] if variant else ""


def test_these_tables_depart_from_the_recipes() -> None:
    departing = {name: variant for name, variant in of_the_paper() if variant}
    assert departing.items() >= {"table2": "table2", "table4": "table8", "table9": "table8"}.items()


@pytest.mark.parametrize(("name", "variant"), list(of_the_paper()))
def test_it_departs_from_the_recipe_where_the_paper_does(name: str, variant: str) -> None:
    """One that takes no variant is asked for its own task, and for another of another model."""
    expected = RECIPES | VARIANTS.get(variant, {})
    assert recipe(whole(name)) == expected["mrpc"]
    for task in ("rte", "sst2") if variant else ():
        assert recipe(composed(f"+experiment={name}", f"task={task}")) == expected[task]
    other = composed(f"+experiment={name}", "task=rte", "model=opt_starter")
    assert recipe(other) == STARTER


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "variant"), list(of_the_paper()))
def test_it_departs_from_no_other_recipe(name: str, variant: str) -> None:
    expected = RECIPES | VARIANTS.get(variant, {})
    for task, numbers in expected.items():
        assert recipe(composed(f"+experiment={name}", f"task={task}")) == numbers
        other = composed(f"+experiment={name}", f"task={task}", "model=opt_starter")
        assert recipe(other) == STARTER


def test_table_4_is_about_shortcuts_at_one_budget(checkpoints: dict[str, Path]) -> None:
    path = f"model.path={checkpoints['opt-post-norm']}"
    ranks = [f"rank_budget.{role}_rank=8" for role in ("lora", "shortcut")]
    config = prepare(edited(whole("table4"), path, *ranks))
    assert config.search_space.projections == ("q", "v")
    assert config.search_space.shortcuts == SHORTCUT_ROLES
    assert config.rank_budget.ranks() == {"lora": 8, "shortcut": 8}
    assert (config.proxy and config.proxy.name) == "gradnorm"
    assert config.strategy.enable_rate == 0.25
