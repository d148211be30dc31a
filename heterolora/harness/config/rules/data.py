"""Rules across sections of the configuration that can be checked from plain values.

A rule receives sections according to the types of its parameters, and yields a line for each
problem: `key=value: rule; remedy`. Rules that consult the model or the device are in `model`
and `storage`. All are checked before any weights are loaded.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from heterolora.allocation import enabled_rank
from heterolora.errors import shown
from heterolora.files import FORMATS, split_files
from heterolora.harness.config.embedded import MODELS, STARTER, TASKS
from heterolora.harness.config.schema import (
    EvaluationConfig,
    ModelConfig,
    ProxyConfig,
    RankBudgetConfig,
    SearchSpaceConfig,
    SelectionConfig,
    StrategyConfig,
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


def some_site(space: SearchSpaceConfig) -> Iterable[str]:
    """A search space has sites."""
    if not any(space.roles().values()):
        yield (
            "search_space.projections=[]: must not be empty when search_space.shortcuts "
            "is empty; for example search_space.projections=[q,v]"
        )


def rank_for_sites(space: SearchSpaceConfig, budget: RankBudgetConfig) -> Iterable[str]:
    """Each kind of site in the search space needs a rank."""
    for kind, roles in space.roles().items():
        if roles and budget.ranks()[kind] == 0:
            yield (
                f"rank_budget.{kind}_rank=0: must be greater than 0 where the search space has the "
                f"{kind} sites {', '.join(roles)}; for example rank_budget.{kind}_rank=2"
            )


def whole_rank(
    space: SearchSpaceConfig, budget: RankBudgetConfig, strategy: StrategyConfig
) -> Iterable[str]:
    """A site that is on has rank budget / enable rate, which must be whole."""
    for kind, roles in space.roles().items():
        rank = budget.ranks()[kind]
        if roles and 0 < rank < 1 and not strategy.build().searches:
            yield (
                f"rank_budget.{kind}_rank={rank:g}: must be at least 1 with strategy="
                f"{strategy.name}, which has every site on; choose rank_budget=r2, or "
                "strategy=static"
            )
        elif roles and enabled_rank(rank, strategy.enable_rate) is None:
            ratio = rank / strategy.enable_rate
            yield (
                f"strategy.enable_rate={strategy.enable_rate:g}: rank_budget.{kind}_rank / "
                f"strategy.enable_rate must be whole, but {rank} / {strategy.enable_rate:g} = "
                f"{ratio:g}; change one, for example strategy.enable_rate=0.25"
            )


def whole_start(
    space: SearchSpaceConfig, budget: RankBudgetConfig, strategy: StrategyConfig
) -> Iterable[str]:
    """The rank of every site before the first search is whole, and at most its capacity."""
    start = strategy.build().start
    for kind, roles in space.roles().items():
        rank = budget.ranks()[kind]
        capacity = enabled_rank(rank, strategy.enable_rate)
        if start is None or not roles or rank == 0 or capacity is None:
            continue
        begun = enabled_rank(rank, 1 / start)
        if begun is None or not 1 <= begun <= capacity:
            yield (
                f"rank_budget.{kind}_rank={rank:g}: strategy={strategy.name} begins with every "
                f"site at rank {start:g} x {rank:g} = {start * rank:g}, which must be whole and "
                f"from 1 to {capacity}; choose another rank, or strategy=static"
            )


def proxy_for_search(strategy: StrategyConfig, proxy: ProxyConfig | None) -> Iterable[str]:
    """A strategy that searches needs a proxy."""
    if strategy.build().searches and proxy is None:
        yield f"proxy=null: strategy={strategy.name} needs one; choose it with proxy=gradnorm"


def selection_for_search(
    strategy: StrategyConfig, selection: SelectionConfig | None
) -> Iterable[str]:
    """A strategy that searches needs a selection."""
    if strategy.build().searches and selection is None:
        yield f"selection=null: strategy={strategy.name} needs one; choose it with selection=top"


RULES: tuple[Rule, ...] = (
    metrics_once,
    data_is_there,
    something_is_evaluated,
    distinct_splits,
    test_is_another_split,
    data_settings_are_read,
    planted_in_the_model,
    revision_is_read,
    some_site,
    rank_for_sites,
    whole_rank,
    whole_start,
    proxy_for_search,
    selection_for_search,
)
