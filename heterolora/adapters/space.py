"""The search space: which sites a model has, their capacities, and how they join its streams."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from heterolora.adapters.scaling import Scaling
from heterolora.sites import Kind, Site

Renormalize = Literal["always", "enabled"]


@dataclass(frozen=True)
class Space:
    """A search space: everything needed to put the same adapters on a model again.

    Attributes:
        lora: the capacity, in ranks, of the sites of each LoRA role.
        shortcuts: the capacity, in ranks, of the sites of each shortcut role.
        lora_alpha: the numerator of the scaling of LoRA sites.
        shortcut_alpha: the numerator of the scaling of shortcut sites.
        scaling: the rule by which alpha is divided: `alpha_over_rank`, `alpha_over_budget_rank` or
            `rslora`.
        budget_ranks: the rank of each role in the homogeneous model with the same budget; roles
            that are not listed use their capacity.
        renormalize: whether a post-norm block normalizes again after every cross-layer shortcut
            (`always`), or only after those that are on (`enabled`).
        exclude: the names of sites that have no adapter although others of their role do.
    """

    lora: Mapping[str, int] = field(default_factory=dict)
    shortcuts: Mapping[str, int] = field(default_factory=dict)
    lora_alpha: float = 16
    shortcut_alpha: float = 4
    scaling: str = "alpha_over_budget_rank"
    budget_ranks: Mapping[str, int] = field(default_factory=dict)
    renormalize: Renormalize = "always"
    exclude: Sequence[str] = ()

    def has(self, site: Site) -> bool:
        """Return whether there is an adapter at this site."""
        return site.role in {**self.lora, **self.shortcuts} and str(site) not in self.exclude

    def capacity(self, role: str) -> int:
        """Return the largest number of ranks that a site of this role can have on."""
        return {**self.lora, **self.shortcuts}[role]

    def scaling_of(self, site: Site) -> Scaling:
        """Return the scaling of a site, which maps its rank to the factor."""
        alphas: dict[Kind, float] = {"lora": self.lora_alpha, "shortcut": self.shortcut_alpha}
        budget_rank = self.budget_ranks.get(site.role, self.capacity(site.role))
        return Scaling(self.scaling, alphas[site.kind], budget_rank)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, the inverse of `Space(**values)`."""
        return asdict(self)
