"""Rules for `validate`: what a budget and a search space must have in common."""

from collections.abc import Iterable

from heterolora.allocation.budget import enabled_rank
from heterolora.config import RankBudgetConfig, SearchSpaceConfig, StrategyConfig


def whole_rank(
    search_space: SearchSpaceConfig, rank_budget: RankBudgetConfig, strategy: StrategyConfig
) -> Iterable[str]:
    """A site that is on has rank budget / enable rate, which must come out whole."""
    for kind, roles in search_space.roles().items():
        rank = rank_budget.ranks()[kind]
        if roles and enabled_rank(rank, strategy.enable_rate) is None:
            ratio = rank / strategy.enable_rate
            yield (
                f"strategy.enable_rate={strategy.enable_rate:g}: rank_budget.{kind}_rank / "
                f"strategy.enable_rate must be whole, but {rank} / {strategy.enable_rate:g} = "
                f"{ratio:g}; change one, for example strategy.enable_rate=0.25"
            )


def some_site(search_space: SearchSpaceConfig) -> Iterable[str]:
    """A search space has sites."""
    if not any(search_space.roles().values()):
        yield (
            "search_space.projections=[]: must have at least 1 item where search_space.shortcuts "
            "has none; for example search_space.projections=[q,v]"
        )


def rank_for_sites(search_space: SearchSpaceConfig, rank_budget: RankBudgetConfig) -> Iterable[str]:
    """Each kind of site that the search space has needs a rank."""
    for kind, roles in search_space.roles().items():
        if roles and rank_budget.ranks()[kind] == 0:
            yield (
                f"rank_budget.{kind}_rank=0: must be greater than 0 where the search space has the "
                f"{kind} sites {', '.join(roles)}; for example rank_budget.{kind}_rank=2"
            )
