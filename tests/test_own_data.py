"""A task of one's own texts, from whatever file they are in."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from conftest import CommandLine, composed, edited, problems
from omegaconf import DictConfig
from pyarrow import parquet

from heterolora.errors import ConfigError, DataError
from heterolora.harness.cli.commands import predict
from heterolora.harness.data import sources
from heterolora.harness.data.remarks import remarks
from heterolora.harness.records.load import load
from heterolora.harness.runs.prepare import prepare
from heterolora.tasks import Examples
from heterolora.tasks.metrics import compute_metric
from heterolora.tasks.text_classification import TextClassification

TEXTS = ["great, really", "bad", "12345", 'a "quoted"\nline', "awful film", "loved it"] * 4
STARS = [5, 1, 3, 3, 1, 5] * 4
ROWS = pd.DataFrame({"id": range(len(TEXTS)), "review": TEXTS, "stars": STARS})
OWN = ("task=text_classification", "task.text=review", "task.label=stars")


def asked(path: Path, *more: str) -> DictConfig:
    return edited(composed(*OWN, "device=cpu", "tracking=local"), f"task.path={path}", *more)


def write(file: Path, rows: pd.DataFrame = ROWS) -> Path:
    match file.suffix:
        case ".csv":
            rows.to_csv(file, index=False)
        case ".tsv":
            rows.to_csv(file, index=False, sep="\t")
        case ".parquet":
            rows.to_parquet(file)
        case _:
            rows.to_json(file, orient="records", lines=True)
    return file


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_every_format_gives_the_same_examples(name: str, tmp_path: Path) -> None:
    task = prepare(asked(write(tmp_path / name))).task
    assert task.model_dump()["labels"] == ("1", "3", "5")
    splits = sources.load_splits(task)
    assert len(splits["validation"]) == round(0.2 * len(TEXTS))
    both = [*splits["train"].rows(), *splits["validation"].rows()]
    expected = [(text, (1, 3, 5).index(stars)) for text, stars in zip(TEXTS, STARS, strict=True)]
    assert sorted(both) == sorted(expected)


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_pandas(ROWS)
    whole.save_to_disk(tmp_path / "one")
    task = prepare(asked(tmp_path / "one")).task
    assert len(sources.load_splits(task)["train"]) == len(TEXTS) - 5
    datasets.DatasetDict({"train": whole, "dev": whole.select(range(5))}).save_to_disk(
        tmp_path / "two"
    )
    parts = ("task.validation_split=dev", "task.held_out=null")
    splits = sources.load_splits(prepare(asked(tmp_path / "two", *parts)).task)
    assert [len(splits[name]) for name in ("train", "validation")] == [len(TEXTS), 5]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["no", "yes"], ("no", "yes")),
        ([True, False], ("false", "true")),
        ([10.0, 9.0], ("9", "10")),
        ([1, 0], ("0", "1")),
    ],
)
def test_labels_are_words_truth_values_or_whole_numbers(
    labels: list[Any], classes: tuple[str, ...], tmp_path: Path
) -> None:
    rows = pd.DataFrame({"review": TEXTS[:6], "stars": labels * 3})
    config = prepare(asked(write(tmp_path / "a.parquet", rows), "task.held_out=2"))
    assert config.task.build().labels == classes
    options = config.task.build().model_options
    assert options["id2label"] == dict(enumerate(classes))
    assert options["num_labels"] == 2


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1.5, 2.0], "row 0 has label 1.5, which cannot be a class"),
        (["yes", "yes"], "has only one class (yes)"),
        (["yes", None], "row 1 has label None"),
    ],
)
def test_what_is_no_class_is_one_line(labels: list[Any], said: str, tmp_path: Path) -> None:
    rows = pd.DataFrame({"review": TEXTS[:6], "stars": labels * 3})
    with pytest.raises(DataError) as error:
        prepare(asked(write(tmp_path / "a.parquet", rows)))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_label_that_is_not_named_is_refused(tmp_path: Path) -> None:
    config = prepare(asked(write(tmp_path / "a.csv"), "task.labels=['1','5']"))
    with pytest.raises(DataError, match=r"row 2 has label '3', but the task has the labels 1, 5"):
        sources.load_splits(config.task)


def test_what_cannot_be_read_says_what_can(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    (line,) = problems(asked(tmp_path / "a.xlsx"))
    assert ".csv, .tsv, .jsonl" in line
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        prepare(asked(tmp_path / "a.parquet"))
    (line,) = problems(asked(tmp_path / "none"))
    assert line.startswith(
        f"task.path={tmp_path / 'none'}: there is no such file or folder; give one of "
    )


def test_a_validation_split_is_not_passed_over(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.csv")
    (line,) = problems(asked(tmp_path))
    assert line.startswith("task.validation_split=null: ")
    (line,) = problems(
        asked(tmp_path / "train.csv", "task.validation_split=validation", "task.held_out=null")
    )
    assert "is one file" in line


@pytest.mark.parametrize("value", ["0", "1.5", "-1", "true", "x"])
def test_what_can_be_held_out(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.held_out="):
        prepare(asked(write(tmp_path / "a.csv"), f"task.held_out={value}"))


COUNTED = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (1, 0), (2, 2), (2, 2), (2, 0), (2, 2)]
"""True and predicted labels."""


@pytest.mark.parametrize("name", ["macro_f1", "weighted_f1", "balanced_accuracy"])
def test_metrics_over_classes_by_their_definition(name: str) -> None:
    of = Counter(COUNTED)
    support = [sum(of[true, other] for other in range(3)) for true in range(3)]
    chosen = [sum(of[other, predicted] for other in range(3)) for predicted in range(3)]
    recall = [of[one, one] / support[one] for one in range(3)]
    f1 = [2 * of[one, one] / (support[one] + chosen[one]) for one in range(3)]
    expected = {
        "macro_f1": sum(f1) / 3,
        "weighted_f1": sum(a * b for a, b in zip(f1, support, strict=True)) / len(COUNTED),
        "balanced_accuracy": sum(recall) / 3,
    }
    assert compute_metric(name, *zip(*COUNTED, strict=True)) == pytest.approx(expected[name])


def test_precision_and_recall_by_their_definition() -> None:
    true, predicted = [1, 1, 1, 0, 0], [1, 0, 0, 1, 0]
    assert compute_metric("precision", true, predicted) == 1 / 2
    assert compute_metric("recall", true, predicted) == 1 / 3
    assert compute_metric("precision", true, [0] * 5) == 0


def remarked(train: dict[str, list[Any]], validation: dict[str, list[Any]]) -> list[str]:
    task = TextClassification(
        text="review",
        label="stars",
        labels=("bad", "good"),
        metrics=("accuracy", "matthews"),
        max_length=8,
    )
    return [*remarks(task, {"train": Examples(train), "validation": Examples(validation)})]


def test_likely_mistakes_are_remarked() -> None:
    sound = {"review": ["a", "b"], "stars": [0, 1]}
    assert remarked(sound, {"review": ["c", "d"], "stars": [1, 0]}) == []
    assert remarked(sound, {"review": ["c", "b", " "], "stars": [1, 1, 1]}) == [
        "1 of the 3 examples of the validation split have no text",
        "all 3 examples of the validation split have the label good, so its metrics say "
        "little; matthews cannot be computed and is reported as 0",
        "1 of the 3 examples of the validation split have the text of a training example, so "
        "its metrics are likely too good",
    ]


def test_a_run_of_ones_own_file(
    command_line: CommandLine,
    tiny: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = write(tmp_path / "reviews.csv")
    rest = [one for one in tiny if not one.startswith("task")]
    done = command_line(*rest, *OWN, f"task.path={file}", "training.epochs=1")
    assert done.code == 0, done.err
    assert "have the text of a training example" in caplog.text
    given = dict(override.split("=", 1) for override in tiny)
    ((run,), _) = load(Path(given["output"]))
    assert run.setting("task.labels") == ["1", "3", "5"]
    assert run.provenance.data is not None
    assert run.provenance.data["path"] == str(file)
    assert json.loads((run.directory / "provenance.json").read_text())["data"]["source"] == "own"
    predict.main([str(run.directory), "--data", str(file)])
    table = parquet.read_table(
        run.directory / "predictions" / "text_classification-reviews.parquet"
    )
    assert {*table["prediction"].to_pylist()} <= {"1", "3", "5"}
