"""Rules about the search space, its budget, and what searches in it."""

from collections.abc import Iterable

from heterolora.allocation import enabled_rank
from heterolora.harness.config.schema import (
    ProxyConfig,
    RankBudgetConfig,
    SearchSpaceConfig,
    SelectionConfig,
    StrategyConfig,
)
from heterolora.harness.config.validation import Rule


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
    some_site,
    rank_for_sites,
    whole_rank,
    whole_start,
    proxy_for_search,
    selection_for_search,
)
