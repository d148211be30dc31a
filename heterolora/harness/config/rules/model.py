"""Rules across sections of the configuration that consult the model or the device.

They need torch and transformers, which take seconds to import.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Mapping

import torch

from heterolora.allocation import enabled_rank, make_pools
from heterolora.errors import ModelError, shown
from heterolora.harness.config import checkpoints
from heterolora.harness.config.schema import (
    Device,
    ModelConfig,
    Precision,
    ProxyConfig,
    RankBudgetConfig,
    SearchSpaceConfig,
    SelectionConfig,
    StrategyConfig,
    TaskConfig,
    TrainingConfig,
)
from heterolora.harness.config.validation import Rule, suggestion
from heterolora.proxies.control import Control
from heterolora.sites import Site
from heterolora.training.memory import total_memory
from heterolora.training.precision import resolve_device, resolve_precision

WITHOUT_FLOAT64 = ("mps",)
BYTES_PER_PARAMETER = 16
"""For a trained adapter: its weight, its gradient and AdamW's two moments, in float32."""


def model_is_usable(model: ModelConfig) -> Iterable[str]:
    """The checkpoint exists, has layers, and belongs to a family that can be wired."""
    try:
        checkpoints.check(model)
    except ModelError as error:
        yield str(error)


def projections_exist(model: ModelConfig, space: SearchSpaceConfig) -> Iterable[str]:
    """The model's family has every projection of the search space."""
    try:
        family = checkpoints.family(model)
    except ModelError:
        return  # reported by model_is_usable
    for role in space.projections:
        if role not in family.projections:
            yield (
                f"search_space.projections={shown(space.projections)}: {family.model_type} "
                f"models have no projection '{role}'; choose from {', '.join(family.projections)}"
            )


def exclusions_are_sites(model: ModelConfig, space: SearchSpaceConfig) -> Iterable[str]:
    """Excluded sites are sites of the model, and other sites remain."""
    if not space.exclude or list(model_is_usable(model)) or list(projections_exist(model, space)):
        return
    known = [str(site) for site in checkpoints.places(model, space)]
    if unknown := [name for name in space.exclude if name not in known]:
        yield (
            f"search_space.exclude={shown(space.exclude)}: the search space has no site "
            f"'{unknown[0]}'; {suggestion(unknown[0], known)}"
        )
    elif len(known) == len(space.exclude):
        yield (
            f"search_space.exclude={shown(space.exclude)}: excludes all {len(known)} sites; name "
            "fewer"
        )


def shortcuts_fit(model: ModelConfig, space: SearchSpaceConfig) -> Iterable[str]:
    """A model supports shortcuts if it is to have them."""
    if space.shortcuts and not list(model_is_usable(model)):
        problem = checkpoints.shortcuts_problem(model)
        if problem is not None:
            yield problem


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
    """The ranks that every site keeps are within the budget."""
    floor = getattr(selection, "floor", 0)
    if not floor or not strategy.build().searches:
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
    """The budget is nearer to one site that is on than to none, whichever scores highest."""
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
                f"{dearest} parameters, so a budget of {pool.budget} is too small for any site; "
                "raise strategy.enable_rate, for example to 0.25, or add roles to "
                "search_space.projections or search_space.shortcuts"
            )


def adapters_fit_memory(
    model: ModelConfig,
    space: SearchSpaceConfig,
    budget: RankBudgetConfig,
    strategy: StrategyConfig,
    device: Device,
) -> Iterable[str]:
    """Adapters, their gradients and the optimizer's moments fit into the device's memory."""
    if list(device_exists(device)) or list(rank_within_width(model, space, budget)):
        return
    shapes = _sites(model, space)
    on = _ranks_on(shapes, budget, strategy)
    needed = BYTES_PER_PARAMETER * sum(on[site] * shapes[site].unit_cost for site in on)
    there = total_memory(resolve_device(device))
    if needed > there:
        kind = max(budget.ranks(), key=lambda kind: budget.ranks()[kind])
        yield (
            f"rank_budget.{kind}_rank={budget.ranks()[kind]}: the adapters and their training take "
            f"{needed / 2**30:.1f} GiB, but device={device} has {there / 2**30:.1f} GiB; lower it, "
            f"for example rank_budget.{kind}_rank=8"
        )


def synflow_on_device(
    proxy: ProxyConfig | None, strategy: StrategyConfig, device: Device
) -> Iterable[str]:
    """SynFlow computes in float64, which not every device supports."""
    if proxy is None or proxy.name != "synflow" or not strategy.build().searches:
        return
    if resolve_device(device).type in WITHOUT_FLOAT64:
        yield (
            f"proxy=synflow: computes in float64, which device={device} does not support; use "
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


def tf32_is_read(training: TrainingConfig, precision: Precision, device: Device) -> Iterable[str]:
    """TF32 has no effect on what is computed in bf16."""
    if not training.tf32 or list(device_exists(device)):
        return
    if resolve_precision(precision, resolve_device(device)) != "fp32":
        here = ", which is bf16 here" if precision == "auto" else ""
        yield (
            f"training.tf32=true: has no effect with precision={precision}{here}; "
            "set precision=fp32 or training.tf32=false"
        )


def compiler_is_there(training: TrainingConfig, device: Device) -> Iterable[str]:
    """On a CPU, torch compiles with the machine's C++ compiler."""
    if not training.compile or list(device_exists(device)):
        return
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if resolve_device(device).type == "cpu" and shutil.which(compiler) is None:
        yield (
            f"training.compile=true: device={device} needs a C++ compiler, and {compiler} is not "
            "installed; install it, or set training.compile=false"
        )


def _sites(model: ModelConfig, space: SearchSpaceConfig) -> Mapping[Site, checkpoints.Shape]:
    """Return the sites and their shapes; empty if another rule reports why there are none."""
    if list(model_is_usable(model)) or list(projections_exist(model, space)):
        return {}
    return checkpoints.sites(model, space)


def _ranks_on(
    sites: Iterable[Site], budget: RankBudgetConfig, strategy: StrategyConfig
) -> dict[Site, int]:
    """Return the rank of each site when it is on; empty if `whole_rank` reports a problem."""
    ranks = {
        kind: enabled_rank(rank, strategy.enable_rate) for kind, rank in budget.ranks().items()
    }
    found = {site: ranks[site.kind] for site in sites}
    if None in found.values():
        return {}
    return {site: rank for site, rank in found.items() if rank}


def control_tells_sites_apart(
    model: ModelConfig,
    space: SearchSpaceConfig,
    strategy: StrategyConfig,
    proxy: ProxyConfig | None,
    selection: SelectionConfig | None,
) -> Iterable[str]:
    """A control by position scores sites differently, or it would be random allocation."""
    control = proxy and proxy.build()
    sites = _sites(model, space)
    if not strategy.build().searches or not isinstance(control, Control) or not sites:
        return
    if len({control.place(site) for site in sites}) == 1:
        last = max(site.layer for site in sites)
        roles = ", ".join(dict.fromkeys(site.role for site in sites))
        yield (
            f"proxy={control.name}: gives all sites the same score (layers 0 to {last}, roles "
            f"{roles}); change its settings, or choose proxy=constant for a random allocation"
        )
    elif control.name == "role" and getattr(selection, "normalize", "none") == "role":
        yield (
            "proxy=role: prefers some roles, but selection.normalize=role makes all roles equal; "
            "set selection.normalize=none"
        )


def decoder_for_task(task: TaskConfig, model: ModelConfig) -> Iterable[str]:
    """The next token is predicted by a model that has not seen it."""
    if not task.build().needs_decoder:
        return
    try:
        family = checkpoints.family(model)
    except ModelError:
        return  # reported by model_is_usable
    if not family.decoder:
        yield (
            f"{model.where}: is a {family.model_type} model, which reads in both directions and "
            f"so sees the tokens that task {task.name} asks it to predict; choose a decoder, such "
            "as model=opt_125m"
        )


RULES: tuple[Rule, ...] = (
    control_tells_sites_apart,
    decoder_for_task,
    model_is_usable,
    projections_exist,
    exclusions_are_sites,
    shortcuts_fit,
    rank_within_width,
    floor_within_budget,
    budget_reaches_a_site,
    adapters_fit_memory,
    device_exists,
    synflow_on_device,
    tf32_is_read,
    compiler_is_there,
)
