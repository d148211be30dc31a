"""The scaling factor of an adapter's output, and how it depends on the rank."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

RULES: Mapping[str, Callable[[float, int, int], float]] = {
    "alpha_over_rank": lambda alpha, rank, budget_rank: alpha / rank,
    "alpha_over_budget_rank": lambda alpha, rank, budget_rank: alpha / budget_rank,
    "rslora": lambda alpha, rank, budget_rank: alpha / math.sqrt(rank),
}
"""The rules by name: each maps alpha, the rank that is on and the budget's rank to the factor."""


@dataclass(frozen=True)
class Scaling:
    """`alpha / r` (LoRA), `alpha / r_budget`, or `alpha / sqrt(r)` (rank-stabilized LoRA).

    With `alpha / r`, a site that is on at four times the budget's rank has a quarter of the factor
    of a homogeneous model with the same budget. Dividing by the budget's rank keeps both equal, so
    that one learning rate suits both. rsLoRA: https://arxiv.org/abs/2312.03732.

    Attributes:
        rule: the name of the rule, a key of `RULES`.
        alpha: the numerator.
        budget_rank: the rank of the homogeneous model with the same budget.

    Raises:
        ValueError: if the rule does not exist.
    """

    rule: str
    alpha: float
    budget_rank: int

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"scaling={self.rule!r}: must be one of {', '.join(RULES)}")

    def __call__(self, rank: int) -> float:
        """Return the factor for `rank` ranks on."""
        return RULES[self.rule](self.alpha, rank, self.budget_rank)
