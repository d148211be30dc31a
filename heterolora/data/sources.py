"""Where examples come from: the embedded task, a directory of parquet files, or the hub."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from heterolora.config import TaskConfig
from heterolora.data.tasks import Examples
from heterolora.errors import DataError, one_line
from heterolora.network import PREFETCH

STARTER = "heterolora/starter-paraphrase"
"""The `task.source` of the paraphrase task that the package generates itself."""


def path_exists(task: TaskConfig) -> Iterable[str]:
    """A rule for `validate`: `task.path` is a directory that holds the task's splits."""
    if task.path is None:
        return
    if not Path(task.path).is_dir():
        yield f"task.path={task.path}: is not a directory; give the one with the parquet files"
        return
    for key in ("train_split", "validation_split"):
        split = getattr(task, key)
        if not _parquet_files(task.path, split):
            yield (
                f"task.path={task.path}: holds neither {split}.parquet nor {split}-*.parquet; "
                f"add it, or name the split that is there with task.{key}=SPLIT"
            )


def load(task: TaskConfig, split: str) -> Examples:
    """Read one split and check every row.

    Raises:
        DataError: if it cannot be read or reached, lacks a column, is empty, or has a text that is
            not a string or a label that is not one of the task's.
    """
    if task.path is not None:
        where, columns = _read_parquet(task.path, split)
    elif task.source == STARTER:
        where, columns = task.source, _generate(split)
    else:
        where, columns = _fetch(task, split)
    return _check(task, columns, f"{where} ({split})")


def fetch(task: TaskConfig) -> Path | None:
    """Have both splits in the cache, checked as a run checks them.

    Returns:
        The folder in the cache, named by the hub's commit; None of a task that is local.

    Raises:
        DataError: as `load` does.
    """
    if task.path is not None or task.source == STARTER:
        return None
    for split in (task.train_split, task.validation_split):
        load(task, split)
    return Path(_open(task, task.train_split).cache_files[0]["filename"]).parent


Columns = dict[str, Sequence[Any]]


def _parquet_files(path: str, split: str) -> list[Path]:
    directory = Path(path)
    whole = directory / f"{split}.parquet"
    return [whole] if whole.is_file() else sorted(directory.glob(f"{split}-*.parquet"))


def _read_parquet(path: str, split: str) -> tuple[str, Columns]:
    import pyarrow as pa
    from pyarrow import parquet

    files = _parquet_files(path, split)
    try:
        table = pa.concat_tables([parquet.read_table(file) for file in files])
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"task.path={path}: cannot be read as parquet: {one_line(error)}"
        ) from error
    return path, table.to_pydict()


def _generate(split: str) -> Columns:
    from heterolora.data.starter import paraphrase_pairs

    rows = paraphrase_pairs("train" if split == "train" else "validation")
    return {key: [row[key] for row in rows] for key in rows[0]}


def _fetch(task: TaskConfig, split: str) -> tuple[str, Columns]:
    where = "/".join(filter(None, (task.source, task.subset)))
    try:
        data = _open(task, split)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"task.source={where}: cannot be loaded from the hub or its cache "
            f"({one_line(error)[:160]}); give parquet files on disk with task.path=DIR, or "
            f"{PREFETCH}"
        ) from error
    return where, {name: data[name][:] for name in data.column_names}


def _open(task: TaskConfig, split: str) -> Any:
    """One split of a dataset of the hub or its cache, as the library has it."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()  # or it warns of having no hub
    return datasets.load_dataset(task.source, task.subset, split=split, revision=task.revision)


def _check(task: TaskConfig, columns: Columns, where: str) -> Examples:
    assert task.label is not None
    for key, column in (
        *(("task.sentences", s) for s in task.sentences),
        ("task.label", task.label),
    ):
        if column not in columns:
            raise DataError(
                f"{key}: column '{column}' is not in {where}, which has {', '.join(columns)}; "
                f"name the right one with {key}=..."
            )
    labels = columns[task.label]
    if len(labels) == 0:
        raise DataError(f"{where}: has no rows; give a split with examples")
    for column in task.sentences:
        for row, text in enumerate(columns[column]):
            if not isinstance(text, str):
                raise DataError(
                    f"{where}: row {row} of column '{column}' must be a string, not {text!r}; "
                    "repair or drop that row"
                )
    for row, label in enumerate(labels):
        if not _is_label(task, label):
            raise DataError(
                f"{where}: row {row} has label {label!r}, but task {task.name} takes "
                f"{_labels_wanted(task)}; repair the row, or set task.num_labels"
            )
    number = float if task.is_regression else int
    return Examples(
        sentences=tuple(list(columns[column]) for column in task.sentences),
        labels=[number(label) for label in labels],
    )


def _is_label(task: TaskConfig, label: Any) -> bool:
    if isinstance(label, bool) or not isinstance(label, int | float):
        return False
    if task.is_regression:
        return math.isfinite(label)
    return isinstance(label, int) and 0 <= label < task.num_labels


def _labels_wanted(task: TaskConfig) -> str:
    return "finite numbers" if task.is_regression else f"whole numbers 0 to {task.num_labels - 1}"
