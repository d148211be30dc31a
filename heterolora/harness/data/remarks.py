"""Likely mistakes in data that can still be used for training."""

from collections.abc import Iterator, Mapping
from typing import Any

from heterolora.tasks import Classification, Examples, Task


def remarks(task: Task, splits: Mapping[str, Examples]) -> Iterator[str]:
    """Yield a line for each property of a classification's splits that is likely a mistake.

    Args:
        task: the task of the run; nothing is yielded for other kinds.
        splits: `train` and `validation`, and `test` if there is one, checked.
    """
    if not isinstance(task, Classification):
        return
    for name, split in splits.items():
        if blank := sum(not any(map(str.strip, row)) for row in _texts(task, split)):
            yield f"{blank} of the {len(split)} examples of the {name} split have no text"
        if task.label is not None and len(labels := {*split.columns[task.label]}) == 1:
            yield (
                f"all {len(split)} examples of the {name} split have the label "
                f"{_shown(task, labels.pop())}, so {_says_nothing(task, name)}"
            )
    train = {*_texts(task, splits["train"])}
    for name, split in splits.items():
        if name != "train" and (shared := sum(row in train for row in _texts(task, split))):
            yield (
                f"{shared} of the {len(split)} examples of the {name} split have the text of a "
                "training example, so its metrics are likely too good"
            )


def _texts(task: Classification, split: Examples) -> list[tuple[str, ...]]:
    return [*zip(*(split.columns[column] for column in task.sentences), strict=True)]


def _shown(task: Classification, label: Any) -> str:
    names = getattr(task, "labels", None)
    return str(names[label] if names else label)


def _says_nothing(task: Classification, name: str) -> str:
    if name == "train":
        return "there is nothing to learn"
    undefined = [one for one in task.metrics if one in ("matthews", "pearson", "spearman")]
    rest = f"; {', '.join(undefined)} cannot be computed and is reported as 0" if undefined else ""
    return f"its metrics say little{rest}"
