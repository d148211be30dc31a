"""Every rule across sections of the configuration: what must fit together.

A rule asks for sections by the types of its parameters, and yields a line for each problem:
`key=value: rule; remedy`. All rules are asked before any weights are loaded.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from heterolora.allocation import enabled_rank, make_pools
from heterolora.config import checkpoints
from heterolora.config.checkpoints import EMBEDDED
from heterolora.config.fingerprints import EMBEDDED_TASKS
from heterolora.config.schema import (
    Device,
    ModelConfig,
    ProxyConfig,
    RankBudgetConfig,
    SearchSpaceConfig,
    SelectionConfig,
    StrategyConfig,
    TaskConfig,
)
from heterolora.config.validation import Rule
from heterolora.errors import ModelError
from heterolora.files import split_files
from heterolora.sites import Site
from heterolora.training.precision import resolve_device

WITHOUT_FLOAT64 = ("mps",)
BYTES_PER_PARAMETER = 16
"""Of an adapter that is trained: its weight, its gradient and AdamW's two moments, in float32."""


def task_fits_itself(task: TaskConfig) -> Iterable[str]:
    """What a kind of task asks of its own settings."""
    yield from (f"task.{problem}" for problem in task.build().problems())


def labels_for_proxy(
    task: TaskConfig, proxy: ProxyConfig | None, strategy: StrategyConfig
) -> Iterable[str]:
    """A proxy that scores by the loss needs labels."""
    if task.build().has_labels or proxy is None or not strategy.build().searches:
        return
    if proxy.build().needs_labels:
        yield (
            f"proxy={proxy.name}: scores by the loss and needs labels, which task {task.name} has "
            "none of; choose proxy=constant, or name the column with task.label=COLUMN"
        )


def data_is_there(task: TaskConfig) -> Iterable[str]:
    """`task.path` is a directory that holds the task's splits; an embedded task has two."""
    if task.path is not None:
        if not Path(task.path).is_dir():
            yield f"task.path={task.path}: is not a directory; give the one with the parquet files"
            return
        for key in ("train_split", "validation_split"):
            split = getattr(task, key)
            if not split_files(task.path, split):
                yield (
                    f"task.path={task.path}: holds neither {split}.parquet nor {split}-*.parquet; "
                    f"add it, or name the split that is there with task.{key}=SPLIT"
                )
    elif task.source in EMBEDDED_TASKS:
        for key in ("train_split", "validation_split"):
            split = getattr(task, key)
            if split not in ("train", "validation"):
                yield (
                    f"task.{key}={split}: the embedded task {task.source} has the splits train and "
                    f"validation; set task.{key}={key.removesuffix('_split')}"
                )


def distinct_splits(task: TaskConfig) -> Iterable[str]:
    """A model is not evaluated on what it is trained on."""
    if task.train_split == task.validation_split:
        yield (
            f"task.validation_split={task.validation_split}: must differ from "
            "task.train_split; for example task.validation_split=validation"
        )


def data_settings_are_read(task: TaskConfig) -> Iterable[str]:
    """What only a dataset of the hub has is not given for another."""
    if task.path is not None:
        where, idle = f"task.path={task.path}", {"revision": task.revision}
    elif task.source in EMBEDDED_TASKS:
        where = f"the embedded task {task.source}"
        idle = {"subset": task.subset, "revision": task.revision}
    else:
        return
    for key, value in idle.items():
        if value is not None:
            yield f"task.{key}={value}: has no effect with {where}; set task.{key}=null"


def revision_is_read(model: ModelConfig) -> Iterable[str]:
    """A folder has no revisions, be it the user's or the package's."""
    if model.revision is None:
        return
    if model.path is not None or model.name in EMBEDDED:
        yield (
            f"model.revision={model.revision}: has no effect with {model.where}, a local folder; "
            "set model.revision=null"
        )


def model_is_usable(model: ModelConfig) -> Iterable[str]:
    """The checkpoint is there, and of a family that can be wired."""
    try:
        checkpoints.family(model)
    except ModelError as error:
        yield str(error)


def projections_exist(model: ModelConfig, space: SearchSpaceConfig) -> Iterable[str]:
    """The model's family has every projection of the search space."""
    try:
        family = checkpoints.family(model)
    except ModelError:
        return  # said by model_is_usable
    for role in space.projections:
        if role not in family.projections:
            yield (
                f"search_space.projections={list(space.projections)}: {family.model_type} "
                f"models have no projection '{role}'; choose from {', '.join(family.projections)}"
            )


def shortcuts_fit(model: ModelConfig, space: SearchSpaceConfig) -> Iterable[str]:
    """A model that is to have shortcuts can have them."""
    if space.shortcuts and not list(model_is_usable(model)):
        problem = checkpoints.shortcuts_problem(model)
        if problem is not None:
            yield problem


def some_site(space: SearchSpaceConfig) -> Iterable[str]:
    """A search space has sites."""
    if not any(space.roles().values()):
        yield (
            "search_space.projections=[]: must not be empty when search_space.shortcuts "
            "is empty; for example search_space.projections=[q,v]"
        )


def rank_for_sites(space: SearchSpaceConfig, budget: RankBudgetConfig) -> Iterable[str]:
    """Each kind of site that the search space has needs a rank."""
    for kind, roles in space.roles().items():
        if roles and budget.ranks()[kind] == 0:
            yield (
                f"rank_budget.{kind}_rank=0: must be greater than 0 where the search space has the "
                f"{kind} sites {', '.join(roles)}; for example rank_budget.{kind}_rank=2"
            )


def whole_rank(
    space: SearchSpaceConfig, budget: RankBudgetConfig, strategy: StrategyConfig
) -> Iterable[str]:
    """A site that is on has rank budget / enable rate, which must come out whole."""
    for kind, roles in space.roles().items():
        rank = budget.ranks()[kind]
        if roles and enabled_rank(rank, strategy.enable_rate) is None:
            ratio = rank / strategy.enable_rate
            yield (
                f"strategy.enable_rate={strategy.enable_rate:g}: rank_budget.{kind}_rank / "
                f"strategy.enable_rate must be whole, but {rank} / {strategy.enable_rate:g} = "
                f"{ratio:g}; change one, for example strategy.enable_rate=0.25"
            )


def rank_within_width(
    model: ModelConfig, space: SearchSpaceConfig, budget: RankBudgetConfig
) -> Iterable[str]:
    """No matrix has a rank above its smaller side."""
    shapes = _sites(model, space)
    for kind, rank in budget.ranks().items():
        widths = {site.role: shape.width for site, shape in shapes.items() if site.kind == kind}
        if widths and rank > min(widths.values()):
            role = min(widths, key=lambda role: widths[role])
            yield (
                f"rank_budget.{kind}_rank={rank}: must be at most {widths[role]}, the width of the "
                f"model at '{role}' sites; for example rank_budget.{kind}_rank=8"
            )


def floor_within_budget(
    model: ModelConfig,
    space: SearchSpaceConfig,
    budget: RankBudgetConfig,
    strategy: StrategyConfig,
    selection: SelectionConfig | None,
) -> Iterable[str]:
    """The ranks that every site keeps are within the budget, and within what a site can hold."""
    floor = getattr(selection, "floor", 0)
    if floor == 0 or not strategy.build().searches:
        return
    for site in _sites(model, space):
        if floor > budget.ranks()[site.kind]:
            yield (
                f"selection.floor={floor}: must be at most rank_budget.{site.kind}_rank="
                f"{budget.ranks()[site.kind]}, the budget's rank at '{site.role}' sites; for "
                "example selection.floor=1"
            )
            return


def budget_reaches_a_site(
    model: ModelConfig,
    space: SearchSpaceConfig,
    budget: RankBudgetConfig,
    strategy: StrategyConfig,
    selection: SelectionConfig | None,
) -> Iterable[str]:
    """A budget is nearer to one site that is on than to none, whichever scores highest."""
    shapes = _sites(model, space)
    on = _ranks_on(shapes, budget, strategy)
    if not on or not strategy.build().searches or (selection and selection.name != "top"):
        return
    unit_costs = {site: shape.unit_cost for site, shape in shapes.items()}
    for pool in make_pools(space.pool, unit_costs, {s: budget.ranks()[s.kind] for s in shapes}):
        dearest = max(on[site] * unit_costs[site] for site in pool.sites)
        if dearest >= 2 * pool.budget:
            yield (
                f"strategy.enable_rate={strategy.enable_rate:g}: a site that is on would cost "
                f"{dearest} parameters, so that a budget of {pool.budget} is nearest to no site at "
                "all; raise strategy.enable_rate, for example to 0.25, or add roles to "
                "search_space.projections or search_space.shortcuts"
            )


def adapters_fit_memory(
    model: ModelConfig,
    space: SearchSpaceConfig,
    budget: RankBudgetConfig,
    strategy: StrategyConfig,
    device: Device,
) -> Iterable[str]:
    """Adapters, their gradients and the optimizer's moments leave room on the device."""
    if list(device_exists(device)) or list(rank_within_width(model, space, budget)):
        return
    shapes = _sites(model, space)
    on = _ranks_on(shapes, budget, strategy)
    needed = BYTES_PER_PARAMETER * sum(on[site] * shapes[site].unit_cost for site in on)
    there = _memory(resolve_device(device))
    if needed > there:
        kind = max(budget.ranks(), key=lambda kind: budget.ranks()[kind])
        yield (
            f"rank_budget.{kind}_rank={budget.ranks()[kind]}: the adapters and their training take "
            f"{needed / 2**30:.1f} GiB, but device={device} has {there / 2**30:.1f} GiB; lower it, "
            f"for example rank_budget.{kind}_rank=8"
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


def synflow_on_device(
    proxy: ProxyConfig | None, strategy: StrategyConfig, device: Device
) -> Iterable[str]:
    """SYNFLOW computes in float64, which not every device has."""
    if proxy is None or proxy.name != "synflow" or not strategy.build().searches:
        return
    if resolve_device(device).type in WITHOUT_FLOAT64:
        yield (
            f"proxy=synflow: computes in float64, which device={device} does not have; use "
            "device=cpu or another proxy"
        )


def device_exists(device: Device) -> Iterable[str]:
    """The machine has the device."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    wanted = resolve_device(device)
    if wanted.type != "cpu" and (
        accelerator is None
        or accelerator.type != wanted.type
        or (wanted.index or 0) >= torch.accelerator.device_count()
    ):
        found = f"{torch.accelerator.device_count()} of {accelerator}" if accelerator else "none"
        yield (
            f"device={device}: this machine has no such device (accelerators: {found}); "
            "set device=auto"
        )


def _sites(model: ModelConfig, space: SearchSpaceConfig) -> Mapping[Site, checkpoints.Shape]:
    """The sites and their shapes; none where another rule says why there are none."""
    if list(model_is_usable(model)) or list(projections_exist(model, space)):
        return {}
    return checkpoints.sites(model, space)


def _ranks_on(
    sites: Iterable[Site], budget: RankBudgetConfig, strategy: StrategyConfig
) -> dict[Site, int]:
    """The rank of each site where it is on; none where `whole_rank` has something to say."""
    ranks = {
        kind: enabled_rank(rank, strategy.enable_rate) for kind, rank in budget.ranks().items()
    }
    found = {site: ranks[site.kind] for site in sites}
    if None in found.values():
        return {}
    return {site: rank for site, rank in found.items() if rank}


def _memory(device: torch.device) -> int:
    """Bytes that the device has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


RULES: tuple[Rule, ...] = (
    task_fits_itself,
    labels_for_proxy,
    proxy_for_search,
    selection_for_search,
    data_is_there,
    distinct_splits,
    data_settings_are_read,
    model_is_usable,
    revision_is_read,
    projections_exist,
    shortcuts_fit,
    some_site,
    rank_for_sites,
    whole_rank,
    rank_within_width,
    floor_within_budget,
    budget_reaches_a_site,
    adapters_fit_memory,
    device_exists,
    synflow_on_device,
)
