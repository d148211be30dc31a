"""The forest plot of a table's comparisons, read back from what is drawn."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from records import STUDY_ARMS, STUDY_ROWS, write_run
from scipy import stats

from heterolora.harness.cli.commands.report import main
from heterolora.harness.records.load import load
from heterolora.harness.records.read import Run
from heterolora.harness.reporting.figures.draw import draw
from heterolora.harness.reporting.figures.forest import LETTERS, forest_plot
from heterolora.harness.reporting.frame import frame
from heterolora.harness.reporting.layout import Table
from heterolora.harness.reporting.tables.build import report

CONTENT: dict[str, Any] = {
    "name": "study",
    "title": "A study",
    "caption": "Of allocation.",
    "rows": STUDY_ROWS,
}
VALUES = {"plain": [0.80, 0.81, 0.79], "random": [0.80, 0.80, 0.80], "searched": [0.82, 0.80, 0.84]}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of CONTENT on MRPC; nothing is added to them."""
    output = tmp_path_factory.mktemp("forest")
    for row, values in VALUES.items():
        for seed, value in enumerate(values):
            arguments = [*STUDY_ARMS[row], f"seed={seed}", "task.name=mrpc", "name=study"]
            write_run(output, *arguments, accuracies=[value])
    return output


@pytest.fixture(scope="module")
def runs(outputs: Path) -> list[Run]:
    return load(outputs)[0]


def lower_is_better(runs: Sequence[Run], task: str = "mrpc") -> list[Run]:
    """The runs on a task whose metric goes down."""
    return [
        replace(
            run,
            config={**run.config, "task": {**run.config["task"], "name": task}},
            result=run.result.model_copy(update={"higher_is_better": False}),
        )
        for run in runs
    ]


def plot(runs: Sequence[Run], table: Table | None = None) -> Figure:
    made = report(table or Table.model_validate(CONTENT), frame(runs))
    return forest_plot(made.comparisons, "some")


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_each_comparison_has_its_seeds_mean_and_interval(runs: list[Run]) -> None:
    figure = plot(runs)
    (axes,) = figure.axes
    assert words(figure) == ["random vs. plain", "searched vs. plain", "searched vs. random"]
    zero, *lines = axes.lines
    assert list(zero.get_xdata()) == [0, 0]
    seeds, means = lines[::2], lines[1::2]
    intervals = [part for part in axes.collections if isinstance(part, LineCollection)]
    pairs = [("random", "plain"), ("searched", "plain"), ("searched", "random")]
    for (one, other), points, mean, interval in zip(pairs, seeds, means, intervals, strict=True):
        gaps = 100 * (np.array(VALUES[one]) - np.array(VALUES[other]))
        np.testing.assert_allclose(points.get_xdata(), gaps, atol=1e-9)
        np.testing.assert_allclose(mean.get_xdata(), [gaps.mean()], atol=1e-9)
        (segment,) = interval.get_segments()
        bounds = stats.t.interval(0.95, 2, gaps.mean(), stats.sem(gaps))
        np.testing.assert_allclose(segment[:, 0], bounds)
        # All three are at one height, and below the name.
        assert {*points.get_ydata(), *mean.get_ydata(), *segment[:, 1]} == {mean.get_ydata()[0]}
    assert axes.yaxis.get_inverted()
    heights = [text.get_position()[1] for text in axes.texts]
    assert all(name < mean.get_ydata()[0] for name, mean in zip(heights, means, strict=True))


def test_each_task_has_its_name_and_scale(runs: list[Run]) -> None:
    figure = plot([*runs, *lower_is_better(runs, "mnli")])
    found = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert set(found) == {"mrpc", "mnli"}
    assert words(figure)[:3] == words(figure)[3:]
    assert "right is better" in found["mrpc"].get_xlabel()
    assert "left is better" in found["mnli"].get_xlabel()
    assert not found["mrpc"].get_shared_x_axes().joined(*found.values())


def test_one_seed_has_no_interval(runs: list[Run]) -> None:
    (axes,) = plot([run for run in runs if run.seed == 0]).axes
    assert not axes.collections
    assert len(axes.lines) == 1 + 2 * 3


@pytest.mark.parametrize("upwards", [True, False])
def test_the_better_side_is_named(upwards: bool, runs: list[Run]) -> None:
    side = "right" if upwards else "left"
    assert (
        plot(runs if upwards else lower_is_better(runs)).axes[0].get_xlabel()
        == f"difference in points ({side} is better)"
    )


def test_a_long_name_is_broken_between_words(runs: list[Run]) -> None:
    long = "one search, ranks in proportion to random scores, at least 1 everywhere"
    rows = {
        long: CONTENT["rows"]["plain"],
        "random": CONTENT["rows"]["random"] | {"baseline": long},
    }
    found = words(plot(runs, Table.model_validate({**CONTENT, "rows": rows})))
    assert " ".join(found) == f"random vs. {long}"
    assert max(map(len, found)) <= LETTERS


def test_draw_writes_it_where_rows_are_compared(runs: list[Run], tmp_path: Path) -> None:
    few = frame([run for run in runs if run.seed == 0])
    compared = report(Table.model_validate(CONTENT), few).comparisons
    with_them = draw(few, tmp_path / "some", compared=compared)
    without = draw(few, tmp_path / "none")
    assert {path.name for path in with_them} - {path.name for path in without} == {
        "differences.png",
        "differences.svg",
    }


def test_the_report_draws_it(outputs: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    main([str(outputs), "--figures", str(figures)])
    assert (figures / "differences.svg").stat().st_size > 0
