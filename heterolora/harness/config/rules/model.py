"""Rules about the model, its sites, and what they cost."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from heterolora.allocation import enabled_rank, make_pools
from heterolora.errors import ModelError, shown
from heterolora.harness.config import checkpoints
from heterolora.harness.config.rules import compatibility
from heterolora.harness.config.rules.device import device_exists
from heterolora.harness.config.schema import (
    Device,
    ModelConfig,
    RankBudgetConfig,
    SearchSpaceConfig,
    StrategyConfig,
)
from heterolora.harness.config.validation import Rule, Sections, suggestion
from heterolora.sites import Site
from heterolora.training.memory import total_memory
from heterolora.training.precision import resolve_device

BYTES_PER_PARAMETER = 16
"""For a trained adapter: its weight, its gradient and AdamW's two moments, in float32."""


def model_is_usable(model: ModelConfig) -> Iterable[str]:
    """The checkpoint exists, has layers, and belongs to a family that can be wired."""
    try:
        checkpoints.check(model)
    except ModelError as error:
        yield str(error)


def choices_fit(sections: Sections) -> Iterable[str]:
    """Every choice has what it needs, of the model and the device as well."""
    situation = replace(compatibility.situation_of(sections), **_facts(sections))
    return compatibility.problems(sections, situation)


def _facts(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model and the device add to a situation, as far as they are valid."""
    facts: dict[str, Any] = {}
    device, model, space, budget, strategy = map(
        sections.get, ("device", "model", "search_space", "rank_budget", "strategy")
    )
    if device is not None and not list(device_exists(device)):
        facts["device"] = resolve_device(device)
    if model is None or list(model_is_usable(model)):
        return facts
    facts |= {"family": checkpoints.family(model), "config": checkpoints.settings(model)}
    if space is None or not (shapes := _sites(model, space)):
        return facts
    facts["unit_costs"] = {site: shape.unit_cost for site, shape in shapes.items()}
    if budget is None:
        return facts
    ranks = facts["budget_ranks"] = {site: budget.ranks()[site.kind] for site in shapes}
    facts["pools"] = make_pools(space.pool, facts["unit_costs"], ranks)
    if strategy is not None:
        on = _ranks_on(shapes, budget, strategy)
        facts["capacities"] = on if on.keys() == shapes.keys() else {}
    return facts


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


RULES: tuple[Rule, ...] = (
    choices_fit,
    model_is_usable,
    projections_exist,
    exclusions_are_sites,
    shortcuts_fit,
    rank_within_width,
    adapters_fit_memory,
)
