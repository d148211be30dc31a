"""The table of one's own sweep."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from records import write_run

from heterolora.errors import RecordError
from heterolora.harness.records.load import load
from heterolora.harness.reporting.frame import frame
from heterolora.harness.reporting.report import Report
from heterolora.harness.reporting.tables import build
from heterolora.harness.reporting.tables.render import FORMATS
from heterolora.harness.reporting.tables.user_sweep import own_table

ARMS = {
    "homogeneous, r2": ["strategy=homogeneous", "rank_budget=r2"],
    "homogeneous, r8": ["strategy=homogeneous", "rank_budget=r8"],
    "static constant": ["strategy=static", "proxy=constant", "rank_budget=r2"],
    "static gradnorm": ["strategy=static", "proxy=gradnorm", "rank_budget=r2"],
    "dynamic gradnorm": ["strategy=dynamic", "proxy=gradnorm", "rank_budget=r2"],
}


def made(output: Path) -> Report:
    runs = frame(load(output)[0])
    return build.report(own_table(runs), runs)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five arms of two seeds on two tasks; whoever adds a run adds it to a copy."""
    output = tmp_path_factory.mktemp("sweep")
    for task in ("mrpc", "rte"):
        for place, (_, overrides) in enumerate(ARMS.items()):
            for seed in (0, 2):
                accuracies = [0.5, 0.6 + place / 100 + seed / 1000]
                common = [f"task.name={task}", f"seed={seed}", "name=mine", "training.batch_size=4"]
                write_run(output, *overrides, *common, accuracies=accuracies)
    return output


@pytest.fixture(scope="module")
def runs(sweep: Path) -> pd.DataFrame:
    return frame(load(sweep)[0])


@pytest.fixture(scope="module")
def report(runs: pd.DataFrame) -> Report:
    return build.report(own_table(runs), runs)


def test_each_arm_is_a_row_and_each_task_a_column(report: Report) -> None:
    first = report.sections[0].frame
    assert len(first) == len(ARMS)
    assert {"mrpc", "rte"} <= set(first.columns)
    best = dict(zip(first.iloc[:, 0], first["mrpc"], strict=True))
    (gradnorm,) = (value for name, value in best.items() if "dynamic gradnorm" in name)
    assert gradnorm.startswith("64.1 ± 0.1")
    assert not [note for note in report.notes if "belong to no row" in note]


def test_a_model_has_only_the_rows_that_were_run_with_it(tmp_path: Path) -> None:
    for model, rate in (("one", 0.001), ("other", 0.002)):
        path = ROOT / "heterolora" / "harness" / "data" / "starter" / "model"
        own = ("strategy=homogeneous", f"model.name={model}", f"model.path={path}")
        write_run(tmp_path, *own, f"optimizer.learning_rate={rate}", accuracies=[0.5])
    report = made(tmp_path)
    for section, rate in zip(report.sections[:2], (0.001, 0.002), strict=True):
        assert [*section.frame.iloc[:, 0]] == [f"homogeneous, lr {rate}"]
    assert not [note for note in report.notes if "no finished run" in note]


def test_rows_are_compared_within_their_budget(runs: pd.DataFrame) -> None:
    rows = own_table(runs).rows
    against = {name: (row.baseline, dict(row.controls)) for name, row in rows.items()}
    (r2,) = (name for name in rows if "homogeneous" in name and "r2" in name)
    (r8,) = (name for name in rows if "homogeneous" in name and "r8" in name)
    (random,) = (name for name in rows if "constant" in name)
    assert against.pop(r2) == against.pop(r8) == (None, {})
    assert against.pop(random) == (r2, {})
    assert set(against) == {name for name in rows if "gradnorm" in name}
    for found in against.values():
        assert found == (r2, {"random": random})


def test_a_learning_rate_that_varies_tells_rows_apart(tmp_path: Path) -> None:
    for rate in (1e-3, 2e-3):
        for seed in (0, 1):
            own = ("strategy=homogeneous", f"optimizer.learning_rate={rate}", f"seed={seed}")
            write_run(tmp_path, *own, accuracies=[0.5])
    first = made(tmp_path).sections[0].frame
    assert sorted(first.iloc[:, 0]) == ["homogeneous, lr 0.001", "homogeneous, lr 0.002"]


def test_every_format_renders(report: Report) -> None:
    for form in FORMATS.values():
        assert "dynamic gradnorm" in form(report)


def test_what_is_missing_is_run_by_the_same_command(sweep: Path, tmp_path: Path) -> None:
    output = shutil.copytree(sweep, tmp_path / "sweep")
    more = ["task.name=mrpc", "seed=3", "name=mine"]
    write_run(output, *ARMS["homogeneous, r2"], *more, accuracies=[0.6])
    notes = made(output).notes
    assert notes
    assert not [note for note in notes if "MODEL=" in note]


def test_without_a_finished_run_there_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="none of the runs here has finished"):
        own_table(frame(load(tmp_path)[0]))
