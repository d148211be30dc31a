"""The forest plot of a table's comparisons, read back from what is drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from records import STUDY_ARMS, STUDY_ROWS, write_run
from scipy import stats

from heterolora.cli.report import main
from heterolora.records.load import load
from heterolora.reporting.figures import draw
from heterolora.reporting.forest import LETTERS, forest_plot
from heterolora.reporting.frame import frame
from heterolora.reporting.layout import Table
from heterolora.reporting.tables import report

CONTENT: dict[str, Any] = {
    "name": "study",
    "title": "A study",
    "caption": "Of allocation.",
    "rows": STUDY_ROWS,
}
VALUES = {"plain": [0.80, 0.81, 0.79], "random": [0.80, 0.80, 0.80], "searched": [0.82, 0.80, 0.84]}


def write(output: Path, *tasks: str, seeds: int = 3, **more: Any) -> None:
    for task in tasks:
        for row, values in VALUES.items():
            for seed, value in enumerate(values[:seeds]):
                arguments = [*STUDY_ARMS[row], f"seed={seed}", f"task.name={task}", "name=study"]
                write_run(output, *arguments, accuracies=[value], **more)


def plot(output: Path, table: Table | None = None) -> Figure:
    runs = frame(load(output)[0])
    return forest_plot(report(table or Table.model_validate(CONTENT), runs).comparisons, "some")


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_each_comparison_has_its_seeds_mean_and_interval(tmp_path: Path) -> None:
    write(tmp_path, "mrpc")
    figure = plot(tmp_path)
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


def test_each_task_has_its_name_and_scale(tmp_path: Path) -> None:
    write(tmp_path, "mrpc")
    write(tmp_path, "mnli", higher_is_better=False)
    figure = plot(tmp_path)
    found = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert set(found) == {"mrpc", "mnli"}
    assert words(figure)[:3] == words(figure)[3:]
    assert "right is better" in found["mrpc"].get_xlabel()
    assert "left is better" in found["mnli"].get_xlabel()
    assert not found["mrpc"].get_shared_x_axes().joined(*found.values())


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    write(tmp_path, "mrpc", seeds=1)
    (axes,) = plot(tmp_path).axes
    assert not axes.collections
    assert len(axes.lines) == 1 + 2 * 3


@pytest.mark.parametrize("upwards", [True, False])
def test_the_better_side_is_named(upwards: bool, tmp_path: Path) -> None:
    write(tmp_path, "mrpc", higher_is_better=upwards)
    side = "right" if upwards else "left"
    assert plot(tmp_path).axes[0].get_xlabel() == f"difference in points ({side} is better)"


def test_a_long_name_is_broken_between_words(tmp_path: Path) -> None:
    long = "one search, ranks in proportion to random scores, at least 1 everywhere"
    rows = {
        long: CONTENT["rows"]["plain"],
        "random": CONTENT["rows"]["random"] | {"baseline": long},
    }
    write(tmp_path, "mrpc")
    found = words(plot(tmp_path, Table.model_validate({**CONTENT, "rows": rows})))
    assert " ".join(found) == f"random vs. {long}"
    assert max(map(len, found)) <= LETTERS


def test_draw_writes_it_where_rows_are_compared(tmp_path: Path) -> None:
    write(tmp_path, "mrpc")
    runs = frame(load(tmp_path)[0])
    compared = report(Table.model_validate(CONTENT), runs).comparisons
    with_them = draw(runs, tmp_path / "some", compared=compared)
    without = draw(runs, tmp_path / "none")
    assert {path.name for path in with_them} - {path.name for path in without} == {
        "differences.png",
        "differences.svg",
    }


def test_the_report_draws_it(tmp_path: Path) -> None:
    write(tmp_path / "outputs", "mrpc")
    figures = tmp_path / "figures"
    main([str(tmp_path / "outputs"), "--figures", str(figures)])
    assert (figures / "differences.svg").stat().st_size > 0
