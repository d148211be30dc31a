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


def test_a_table_inherits_from_the_experiments_in_its_defaults(tmp_path: Path) -> None:
    written(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text(
        "defaults: [_self_, some, {override /task: rte}]\n"
        "table:\n  title: Other\n  where: {seed: 3}\n  rows: {ours: {optional: true}}\n"
    )
    some, table = read(tmp_path / "some.yaml"), read(other)
    assert (table.name, table.title, table.caption) == ("other", "Other", some.caption)
    assert table.where == {"task.name": "rte", "seed": 3}
    assert list(table.cells) == list(some.cells)
    assert table.rows["ours"].where == some.rows["ours"].where
    assert (table.rows["ours"].optional, some.rows["ours"].optional) == (True, False)
    assert table.paper == some.paper


def test_a_table_that_inherits_from_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for base in ("none", "some"):
        file = written(tmp_path, f"defaults: [{base}]\n{SOME}")
        with pytest.raises(ConfigError, match=r"^[^\n]* cannot be read [^\n]*$"):
            read(file)


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
