"""Rules about the data of a task, and what is evaluated."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from heterolora.errors import shown
from heterolora.files import FORMATS, split_files
from heterolora.harness.config.embedded import MODELS, STARTER, TASKS
from heterolora.harness.config.schema import (
    EvaluationConfig,
    ModelConfig,
    TaskConfig,
)
from heterolora.harness.config.validation import Rule


def metrics_once(task: TaskConfig) -> Iterable[str]:
    """No metric is measured twice."""
    if len(set(task.metrics)) != len(task.metrics):
        yield (
            f"task.metrics={shown(task.metrics)}: must name each metric once; for example "
            f"task.metrics={shown(tuple(dict.fromkeys(task.metrics)))}"
        )


def data_is_there(task: TaskConfig) -> Iterable[str]:
    """`task.path` contains the task's splits; an embedded task has two."""
    if task.path is not None:
        path = Path(task.path)
        yield from _file_is_read(task, path) if path.is_file() else _folder_is_read(task, path)
    elif task.source in TASKS:
        for key, split in _splits(task).items():
            if split not in ("train", "validation"):
                yield (
                    f"task.{key}={split}: the embedded task {task.source} has only the splits "
                    f"train and validation; set task.{key}={key.removesuffix('_split')}"
                )


def _file_is_read(task: TaskConfig, file: Path) -> Iterable[str]:
    """A single file has a known format, and contains only the training split."""
    if file.suffix.lower() not in FORMATS:
        yield (
            f"task.path={file}: must be a file of type {', '.join(FORMATS)}, or a folder of such "
            "files"
        )
    if task.validation_split is not None:
        yield (
            f"task.validation_split={task.validation_split}: task.path={file} is one file; set "
            "task.validation_split=null task.held_out=0.2, or give a folder with a file per split"
        )


def _folder_is_read(task: TaskConfig, folder: Path) -> Iterable[str]:
    """A folder has every split that is named, and its validation split is not ignored."""
    if not folder.is_dir():
        known = ", ".join(FORMATS)
        yield f"task.path={folder}: there is no such file or folder; give one of {known}"
        return
    for key, split in _splits(task).items():
        if not split_files(folder, split):
            yield (
                f"task.path={folder}: has no file {split} or {split}-* of type "
                f"{', '.join(FORMATS)}; add it, or name the split that is there with "
                f"task.{key}=SPLIT"
            )
    found = split_files(folder, "validation")
    if task.validation_split is None and any(file.stem == "validation" for file in found):
        yield (
            f"task.validation_split=null: task.path={folder} has a validation split; set "
            "task.validation_split=validation task.held_out=null"
        )


def _splits(task: TaskConfig) -> dict[str, str]:
    """Return the splits that are read, by the key that names each."""
    named = {"train_split": task.train_split, "validation_split": task.validation_split}
    return {key: split for key, split in named.items() if split is not None}


def something_is_evaluated(task: TaskConfig) -> Iterable[str]:
    """A model is evaluated on a split, or on examples held out of the training split."""
    if task.validation_split is None and task.held_out is None:
        yield (
            "task.validation_split=null: leaves nothing to evaluate on; name a split, or hold "
            "examples out of the training split, for example with task.held_out=2000"
        )
    if task.validation_split is not None and task.held_out is not None:
        yield (
            f"task.held_out={task.held_out}: has no effect with task.validation_split="
            f"{task.validation_split}; set one of them to null"
        )


def distinct_splits(task: TaskConfig) -> Iterable[str]:
    """A model is not evaluated on what it is trained on."""
    if task.train_split == task.validation_split:
        yield (
            f"task.validation_split={task.validation_split}: must differ from "
            "task.train_split; for example task.validation_split=validation"
        )


def test_is_another_split(task: TaskConfig, evaluation: EvaluationConfig) -> Iterable[str]:
    """The test split exists, and nothing is trained or selected on it."""
    if evaluation.test is None:
        return
    key = f"evaluation.test={evaluation.test}"
    if evaluation.test in (task.train_split, task.validation_split):
        yield (
            f"{key}: must differ from task.train_split and task.validation_split; name a third "
            "split, or set evaluation.test=null"
        )
    elif task.path is None and task.source in TASKS:
        yield (
            f"{key}: the embedded task {task.source} has only the splits train and validation; "
            "set evaluation.test=null"
        )
    elif task.path is not None and not split_files(task.path, evaluation.test):
        yield (
            f"{key}: task.path={task.path} has no split {evaluation.test} (such as "
            f"{evaluation.test}.parquet or {evaluation.test}.csv); add it, or set "
            "evaluation.test=null"
        )


def data_settings_are_read(task: TaskConfig) -> Iterable[str]:
    """Settings for datasets on the Hub or the planted task are not given for others."""
    idle: dict[str, Any] = {} if task.planted else {"planting": task.planting}
    if task.path is not None:
        where = f"task.path={task.path}"
        idle["revision"] = task.revision
    elif task.source in TASKS:
        where = f"the embedded task {task.source}"
        idle |= {"subset": task.subset, "revision": task.revision}
    else:
        where = f"task.source={task.source}"
    for key, value in idle.items():
        if value is not None:
            yield f"task.{key}={value}: has no effect with {where}; set task.{key}=null"


def planted_in_the_model(task: TaskConfig, model: ModelConfig) -> Iterable[str]:
    """The planted task has a seed, and concerns sites of the embedded model."""
    if not task.planted:
        return
    if task.planting is None:
        yield f"task.planting=null: {task.source} needs a seed; for example task.planting=0"
    if model.path is not None or model.name != STARTER:
        yield (
            f"{model.where}: task {task.source} needs the embedded model; set model=opt_starter, "
            "or choose another task"
        )


def revision_is_read(model: ModelConfig) -> Iterable[str]:
    """A local folder has no revisions, whether it is the user's or the package's."""
    if model.revision is None:
        return
    if model.path is not None or model.name in MODELS:
        yield (
            f"model.revision={model.revision}: has no effect with {model.where}, a local folder; "
            "set model.revision=null"
        )


RULES: tuple[Rule, ...] = (
    metrics_once,
    data_is_there,
    something_is_evaluated,
    distinct_splits,
    test_is_another_split,
    data_settings_are_read,
    planted_in_the_model,
    revision_is_read,
)
