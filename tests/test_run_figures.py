"""The figures of a run, as `tracking=figures` leaves them in its directory."""

from pathlib import Path

import pytest
from conftest import CommandLine
from PIL import Image

from heterolora.drawing.run import run_figures
from heterolora.harness.records.record import read_rows

STEPS = [{"step": 10, "epoch": 1, "loss": 0.7}, {"step": 20, "epoch": 2, "loss": 0.5}]
EPOCHS = [
    {"step": 10, "epoch": 1, "train_loss": 0.7, "validation_loss": 0.6, "accuracy": 0.5},
    {"step": 20, "epoch": 2, "train_loss": 0.5, "validation_loss": 0.4, "accuracy": 0.75},
]
SEARCHES = [
    {"step": step, "scores": {"layers.0.q": 1.0, "layers.1.v": float(step)}, "ranks": ranks}
    for step, ranks in (
        (0, {"layers.0.q": 8, "layers.1.v": 0}),
        (10, {"layers.0.q": 0, "layers.1.v": 4}),
    )
]


def test_curves_show_what_the_rows_say() -> None:
    ((name, figure),) = run_figures("mrpc, seed 0", STEPS, EPOCHS, [])
    assert name == "curves"
    assert figure.get_suptitle() == "mrpc, seed 0"
    drawn = {
        str(line.get_label()): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for axes in figure.axes
        for line in axes.get_lines()
    }
    assert drawn == {
        "training": [(10, 0.7), (20, 0.5)],
        "validation": [(10, 0.6), (20, 0.4)],
        "accuracy": [(10, 0.5), (20, 0.75)],
    }


@pytest.mark.parametrize(("searches", "panels"), [(SEARCHES[:1], 1), (SEARCHES, 3)])
def test_allocations_show_the_ranks_of_the_first_and_the_last_search(
    searches: list[dict[str, object]], panels: int
) -> None:
    *_, (name, figure) = run_figures("mrpc, seed 0", [], [], searches)
    assert name == "allocation"
    shown = [axes for axes in figure.axes if axes.get_xlabel() == "role"]
    assert len(shown) == panels
    marked = [[text.get_text() for text in axes.texts] for axes in (shown[0], shown[-1])]
    assert marked == ([["8"], ["8"]] if panels == 1 else [["8"], ["4"]])
    if panels == 3:
        assert shown[1].get_title() == "share of 2 searches"
        values = shown[1].get_images()[0].get_array()
        assert values is not None
        assert values[0][0] == values[1][1] == 0.5


def test_a_run_leaves_its_figures(command_line: CommandLine, tiny: list[str]) -> None:
    short = [*tiny, "training.epochs=1", "training.limit_examples=16"]
    done = command_line(*short, "tracking=figures")
    assert done.code == 0, done.err
    given = dict(override.split("=", 1) for override in tiny)
    (directory,) = (file.parent for file in Path(given["output"]).rglob("run.json"))
    assert read_rows(directory / "allocations.jsonl")
    for name in ("curves", "allocation"):
        with Image.open(directory / "figures" / f"{name}.png") as image:
            assert min(image.size) > 200
    assert command_line(*short, "rerun=true").code == 0
    assert not (directory / "figures").exists()
