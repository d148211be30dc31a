"""Every file of conf/experiment, run as its first lines say, shortened."""

from pathlib import Path

import pytest
from conftest import CONF, CommandLine, composed

from heterolora.experiment import prepare
from heterolora.reporting.load import load
from heterolora.sites import SHORTCUT_ROLES

FOLDER = CONF / "experiment"
EXPERIMENTS = sorted(
    str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.rglob("*.yaml")
)
RUNS = {
    "table2/baseline": 1,
    "table2/proxies": 8,
    "table2/as_printed": 4,
    "table3/lora": 2,
    "table3/shortcuts": 4,
    "table4/r2": 2,
    "table4/r8": 2,
    "table4/control": 2,
    "table5/rank8": 4,
    "table5/rank4": 2,
    "table5/rank2": 1,
    "table6/rank8": 2,
    "table6/rank4": 1,
    "table6/rank2": 1,
    "table9": 8,
    "frequency/baseline": 1,
    "frequency/searched": 12,
    "importance": 1,
    "learning_rate": 10,
    "stability": 2,
}
"""Arms: the runs of one task and one seed."""


@pytest.fixture
def short(checkpoints: dict[str, Path], pairs: Path, tmp_path: Path) -> list[str]:
    """What makes any experiment a matter of seconds."""
    return [
        f"model.path={checkpoints['opt-post-norm']}",
        "task=rte",
        f"task.path={pairs}",
        "seed=0",
        "training.epochs=1",
        "training.batch_size=32",
        f"output={tmp_path}",
        "tracking=local",
        "device=cpu",
    ]


def test_every_experiment_is_known() -> None:
    assert sorted(RUNS) == EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_runs(name: str, command_line: CommandLine, short: list[str], tmp_path: Path) -> None:
    header, command, *_ = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert header == "# @package _global_"
    assert command == f"# python train.py -m +experiment={name}"
    done = command_line(*command.split()[3:], *short)
    assert done.code == 0, done.err
    runs = load(tmp_path)
    assert len(runs) == RUNS[name]
    assert all(run.finished for run in runs)
    assert {run.setting("name") for run in runs} == {name.partition("/")[0]}
    assert f"{len(runs)} runs: {len(runs)} finished, 0 skipped, 0 failed" in done.out


RATES = [
    ("table2/proxies", "mrpc", 3e-4),
    ("table4/r2", "mrpc", 2e-4),
    ("table4/r8", "rte", 2e-4),
    ("table3/lora", "rte", 3e-4),
    ("table9", "rte", 2e-4),
    ("table4/r2", "sst2", 1e-4),
]


@pytest.mark.parametrize(("name", "task", "rate"), RATES)
def test_the_paper_has_these_learning_rates(name: str, task: str, rate: float) -> None:
    """Tables 7 and 8, and for Table 2 the authors' logs."""
    cfg = composed(f"+experiment={name}", f"task={task}", "model=opt_350m")
    assert cfg.optimizer.learning_rate == rate
    assert (cfg.training.batch_size, cfg.task.max_length, cfg.precision) == (8, 512, "fp32")


def test_table_4_is_about_shortcuts_at_one_budget(checkpoints: dict[str, Path]) -> None:
    path = f"model.path={checkpoints['opt-post-norm']}"
    config = prepare(composed("+experiment=table4/r8", path, "strategy=dynamic", "device=cpu"))
    assert config.search_space.projections == ("q", "v")
    assert config.search_space.shortcuts == SHORTCUT_ROLES
    assert config.rank_budget.ranks() == {"lora": 8, "shortcut": 8}
    assert (config.proxy and config.proxy.name) == "gradnorm"
    assert config.strategy.enable_rate == 0.25
