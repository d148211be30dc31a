"""Sources of examples: an embedded task, files on disk, or the Hub."""

import functools
import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from heterolora.errors import DataError, one_line
from heterolora.files import FORMATS, split_files
from heterolora.harness.config import TaskConfig
from heterolora.harness.config.embedded import PAIRS, PARAPHRASE, TASKS
from heterolora.harness.data import planted
from heterolora.harness.data.tables import read_files
from heterolora.harness.network import PREFETCH, try_hub
from heterolora.tasks import Examples
from heterolora.tasks.base import Columns
from heterolora.tasks.predicting import Predicting


def load(task: TaskConfig, split: str) -> Examples:
    """Read one split, and have the task check every row.

    Raises:
        DataError: if it cannot be read or reached, or does not fit the task.
    """
    where, columns = read(task, split)
    return task.build().check(columns, where)


def read(task: TaskConfig, split: str) -> tuple[str, Columns]:
    """Read one split, unchecked; return what to call it in an error, and all of its columns.

    Raises:
        DataError: if it cannot be read or reached.
    """
    if task.path is not None:
        where, columns = task.path, _read_split(task.path, split, task.build().texts)
    elif task.planted:
        assert task.planting is not None  # guaranteed by a rule of the configuration
        where, columns = task.source, _answered(split, task.planting)
    elif task.source == PARAPHRASE:
        where, columns = task.source, _read_starter(split)
    else:
        where, columns = _fetch(task, split)
    return f"{where} ({split})", columns


def load_splits(task: TaskConfig) -> dict[str, Examples]:
    """Read the splits `train` and `validation`.

    Raises:
        DataError: as for `load`; if both have the same rows, in any order; or if at least as many
            examples are to be held out as there are.
    """
    if task.validation_split is None:
        return _parted(task)
    splits = {
        "train": load(task, task.train_split),
        "validation": load(task, task.validation_split),
    }
    train, validation = (Counter(split.rows()) for split in splits.values())
    if train == validation:
        raise DataError(
            f"task.validation_split={task.validation_split}: has the same rows as "
            f"task.train_split={task.train_split}, so the model would be evaluated on its "
            "training data; name a split with other rows"
        )
    return splits


def right_sites(task: TaskConfig) -> dict[str, list[str]]:
    """Return the sites that a task is known to need, for the record: `planted`, or nothing."""
    if not task.planted or task.planting is None:
        return {}
    return {"planted": [str(site) for site in planted.planted_sites(task.planting)]}


def _parted(task: TaskConfig) -> dict[str, Examples]:
    """Hold out a part of the training split as the validation split; return both."""
    assert task.held_out is not None  # guaranteed by a rule of the configuration
    whole = load(task, task.train_split)
    count = task.held_out
    if isinstance(count, float):
        count = max(1, round(count * len(whole)))
    if count >= len(whole):
        raise DataError(
            f"task.held_out={task.held_out}: must be less than {len(whole)}, the number of "
            f"examples in the split {task.train_split}; lower it"
        )
    train, validation = whole.parted(count)
    return {"train": train, "validation": validation}


def load_test(task: TaskConfig, split: str) -> Examples:
    """Read a split that is evaluated only once, at the end.

    Raises:
        DataError: as for `load`, and if the labels are hidden.
    """
    where, columns = read(task, split)
    built = task.build()
    if isinstance(built, Predicting) and built.hides_labels(columns):
        raise DataError(
            f"evaluation.test={split}: has no labels in {where}; name a split that has labels, or "
            "set evaluation.test=null and predict them with scripts/predict.py"
        )
    return built.check(columns, where)


def fetch(task: TaskConfig) -> Path | None:
    """Download both splits to the cache, checked as a run checks them.

    Returns:
        The folder in the cache, named by the Hub's commit; None for a local task.

    Raises:
        DataError: as for `load`.
    """
    if task.path is not None or task.source in TASKS:
        return None
    load_splits(task)
    return Path(_open(task, task.train_split).cache_files[0]["filename"]).parent


def _read_split(path: str, split: str, texts: Collection[str]) -> Columns:
    files = split_files(path, split)
    if not files:
        there = sorted({file.stem for end in FORMATS for file in Path(path).glob(f"*{end}")})
        raise DataError(
            f"task.path={path}: has no file for the split {split}; name one that is there"
            + (f" ({', '.join(there)})" if there else "")
        )
    return read_files(files, f"task.path={path}", texts)


def _read_starter(split: str) -> Columns:
    splits = json.loads(PAIRS.read_text())
    if split not in splits:
        raise DataError(
            f"task.source={PARAPHRASE}: split must be one of {', '.join(splits)}, not {split!r}"
        )
    columns: Columns = splits[split]
    return columns


@functools.cache
def _answered(split: str, planting: int) -> Columns:
    """Return half of the pairs, as texts, with the answers of a planting's teacher."""
    pairs = _read_starter(split)
    texts = [
        f"{one} . in other words , {other} ."
        for one, other in zip(pairs["sentence1"], pairs["sentence2"], strict=True)
    ]
    return planted.answers(texts[: len(texts) // 2], planting)


def _fetch(task: TaskConfig, split: str) -> tuple[str, Columns]:
    where = "/".join(filter(None, (task.source, task.subset)))
    try:
        data = _open(task, split)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"task.source={where}: cannot be loaded from the hub or its cache "
            f"({one_line(error)[:160]}); give files on disk with task.path=PATH, or "
            f"{PREFETCH}"
        ) from error
    return where, {name: data[name][:] for name in data.column_names}


def _open(task: TaskConfig, split: str) -> Any:
    """Open one split of a dataset from the Hub or its cache, as a `datasets.Dataset`."""
    import datasets

    try_hub()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()  # it would warn if the Hub is unreachable
    return datasets.load_dataset(task.source, task.subset, split=split, revision=task.revision)
