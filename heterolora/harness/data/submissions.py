"""Files in the formats in which GLUE and SuperGLUE accept predictions for their test splits."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from heterolora.harness.config import TaskConfig
from heterolora.tasks.base import Columns

Writer = Callable[[Columns, Sequence[Any]], Iterator[str]]
"""Turns all columns of a split and its predictions into the lines of a file."""


@dataclass(frozen=True)
class Submission:
    """A submission file of a benchmark.

    Attributes:
        file: the file name.
        lines: makes the lines.
    """

    file: str
    lines: Writer


def _glue(words: Sequence[str], columns: Columns, predicted: Sequence[Any]) -> Iterator[str]:
    """Write a tab-separated table with two columns."""
    yield "index\tprediction"
    for index, label in zip(_indices(columns, predicted), predicted, strict=True):
        yield f"{index}\t{words[label]}"


def _numbers(columns: Columns, predicted: Sequence[float]) -> Iterator[str]:
    """Write the same table with scores from 0 to 5."""
    yield "index\tprediction"
    for index, score in zip(_indices(columns, predicted), predicted, strict=True):
        yield f"{index}\t{min(max(score, 0.0), 5.0):.3f}"


def _super_glue(
    labels: Sequence[str | int], columns: Columns, predicted: Sequence[int]
) -> Iterator[str]:
    """Write a JSON object for each example."""
    for index, label in zip(_indices(columns, predicted), predicted, strict=True):
        yield json.dumps({"idx": index, "label": labels[label]})


def _indices(columns: Columns, predicted: Sequence[Any]) -> Sequence[int]:
    """Return the benchmark's index of each example."""
    return columns.get("idx", range(len(predicted)))


def _answers(columns: Columns, predicted: Sequence[int]) -> Iterator[str]:
    """Write a JSON object for each paragraph, with its questions and their answers."""
    paragraphs: dict[int, dict[int, list[dict[str, int]]]] = {}
    for index, label in zip(columns["idx"], predicted, strict=True):
        questions = paragraphs.setdefault(index["paragraph"], {})
        answers = questions.setdefault(index["question"], [])
        answers.append({"idx": index["answer"], "label": label})
    for paragraph, questions in paragraphs.items():
        listed = [{"idx": question, "answers": found} for question, found in questions.items()]
        yield json.dumps({"idx": paragraph, "passage": {"questions": listed}})


def _texts(columns: Columns, predicted: Sequence[str]) -> Iterator[str]:
    """Write a JSON object for each query, with the text that answers it."""
    for index, text in zip(columns["idx"], predicted, strict=True):
        yield json.dumps({"idx": index["query"], "label": text})


NUMERALS = ("0", "1")
ENTAILS = ("entailment", "not_entailment")
INFERENCE = ("entailment", "neutral", "contradiction")

GLUE: Mapping[tuple[str, str], tuple[str, Writer]] = {
    ("cola", "test"): ("CoLA", partial(_glue, NUMERALS)),
    ("sst2", "test"): ("SST-2", partial(_glue, NUMERALS)),
    ("mrpc", "test"): ("MRPC", partial(_glue, NUMERALS)),
    ("qqp", "test"): ("QQP", partial(_glue, NUMERALS)),
    ("wnli", "test"): ("WNLI", partial(_glue, NUMERALS)),
    ("stsb", "test"): ("STS-B", _numbers),
    ("qnli", "test"): ("QNLI", partial(_glue, ENTAILS)),
    ("rte", "test"): ("RTE", partial(_glue, ENTAILS)),
    ("mnli", "test_matched"): ("MNLI-m", partial(_glue, INFERENCE)),
    ("mnli", "test_mismatched"): ("MNLI-mm", partial(_glue, INFERENCE)),
    ("ax", "test"): ("AX", partial(_glue, INFERENCE)),
}
"""The file name and the writer, by subset and split of the dataset on the Hub."""

SUPER_GLUE: Mapping[str, tuple[str, Writer]] = {
    "boolq": ("BoolQ", partial(_super_glue, ("false", "true"))),
    "cb": ("CB", partial(_super_glue, ("entailment", "contradiction", "neutral"))),
    "wic": ("WiC", partial(_super_glue, ("false", "true"))),
    "wsc": ("WSC", partial(_super_glue, ("False", "True"))),
    "wsc.fixed": ("WSC", partial(_super_glue, ("False", "True"))),
    "copa": ("COPA", partial(_super_glue, (0, 1))),
    "record": ("ReCoRD", _texts),
    "multirc": ("MultiRC", _answers),
}
"""The file name and the writer, by subset, for the split `test`."""


def submission(task: TaskConfig, split: str) -> Submission | None:
    """Return the submission file that a benchmark accepts for a split; None if there is none."""
    subset = task.subset or ""
    if task.source == "nyu-mll/glue" and (subset, split) in GLUE:
        name, writer = GLUE[subset, split]
        return Submission(f"{name}.tsv", writer)
    if task.source == "aps/super_glue" and split == "test" and subset in SUPER_GLUE:
        name, writer = SUPER_GLUE[subset]
        return Submission(f"{name}.jsonl", writer)
    return None
