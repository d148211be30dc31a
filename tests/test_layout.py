"""The `table` key of an experiment: what a row is, and what is wrong with one in a line each."""

from pathlib import Path

import pytest

from heterolora.errors import ConfigError
from heterolora.harness.reporting.layout import experiments, read

SOME = """
table:
  title: Some
  caption: some
  where: {task.name: rte}
  columns: {static: {strategy.name: static}, dynamic: {strategy.name: dynamic}}
  rows:
    base: {where: {strategy.enable_rate: 1}, columns: [static]}
    ours: {where: {proxy.name: mine}, baseline: "base, static", controls: {random: chance}}
    chance: {where: {proxy.name: constant}, columns: [dynamic]}
  paper:
    model: some/model
    numbers: {"ours, static": {rte: {printed: 70.5, std: 1.5, logged: [70, null, 71]}}}
"""


def written(folder: Path, text: str = SOME) -> Path:
    file = folder / "some.yaml"
    file.write_text(text)
    return file


def test_an_entry_is_its_row_its_column_and_what_all_share(tmp_path: Path) -> None:
    table = read(written(tmp_path))
    assert table.name == "some"
    assert list(table.cells) == [
        "base, static",
        "ours, static",
        "ours, dynamic",
        "chance, dynamic",
    ]
    ours = table.cells["ours, dynamic"]
    assert ours.where == {
        "task.name": "rte",
        "strategy.name": "dynamic",
        "proxy.name": "mine",
    }
    assert ours.against == {"baseline": "base, static", "random": "chance, dynamic"}
    assert table.cells["ours, static"].against == {"baseline": "base, static"}


def test_the_papers_number_is_of_its_model_and_task_alone(tmp_path: Path) -> None:
    table = read(written(tmp_path))
    number = table.number("ours, static", "some/model", "rte")
    assert number is not None
    assert number.logs is not None
    assert (number.printed, number.logs.n, number.logs.mean) == (70.5, 2, 70.5)
    assert table.number("ours, static", "other/model", "rte") is None
    assert table.number("ours, static", "some/model", "mrpc") is None
    assert table.number("base, static", "some/model", "rte") is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "title: Some",
            "titel: Some",
            ["table.title: field required", "table.titel: extra inputs"],
        ),
        ("table:", "tabel:", ["has no table"]),
        ("columns: [static]", "columns: [statik]", ["rows.base.columns: there is no 'statik'"]),
        ('"base, static"', "bass", ["rows.ours: baseline and controls: there is no 'bass'"]),
        ("random: chance", "random: luck", ["there is no 'luck'; choose from base, static; ours"]),
        ('"ours, static"', "our", ["paper.numbers: there is no 'our'"]),
        ("printed: 70.5", "printed: high", ["printed: input should be a valid number"]),
        (
            "caption: some",
            "caption: some\n  report: importance",
            ["report importance must have no rows"],
        ),
        ("rows:", "rows: [", ["cannot be read"]),
    ],
)
def test_what_is_wrong_is_said_in_a_line_each(
    old: str, new: str, said: list[str], tmp_path: Path
) -> None:
    file = written(tmp_path, SOME.replace(old, new))
    with pytest.raises(ConfigError) as raised:
        read(file)
    problems = raised.value.problems
    assert len(problems) == len(said)
    for problem, words in zip(problems, said, strict=True):
        assert problem.startswith(f"{file}: ")
        assert words in problem
        assert "\n" not in problem


def test_experiments_are_the_files_of_the_folder(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert experiments(tmp_path) == {"some": file}
