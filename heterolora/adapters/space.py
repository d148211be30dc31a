"""Which sites a model has, how large they can be, and how they join its streams."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from heterolora.adapters.scaling import Scaling
from heterolora.sites import Kind, Site

Renormalize = Literal["always", "enabled"]


@dataclass(frozen=True)
class Space:
    """A search space: all that is needed to put adapters on a model once more.

    Attributes:
        lora: the capacity, in ranks, of the sites of each LoRA role.
        shortcuts: the capacity of the sites of each shortcut role.
        lora_alpha: the numerator of the scaling of LoRA sites.
        shortcut_alpha: the numerator of the scaling of shortcut sites.
        scaling: what divides alpha: `alpha_over_rank`, `alpha_over_budget_rank` or `rslora`.
        budget_ranks: the rank of each role in the homogeneous model at the same budget; its
            capacity where there is none.
        renormalize: whether a post-norm block normalizes once more behind every cross-layer
            shortcut (`always`), or only behind those that are on (`enabled`).
        exclude: the names of sites that have no adapter, though others of their role have.
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
        """Whether there is an adapter at this place."""
        return site.role in {**self.lora, **self.shortcuts} and str(site) not in self.exclude

    def capacity(self, role: str) -> int:
        """The most ranks that a site of this role can have on."""
        return {**self.lora, **self.shortcuts}[role]

    def scaling_of(self, site: Site) -> Scaling:
        """The factor at a site, by its rank."""
        alphas: dict[Kind, float] = {"lora": self.lora_alpha, "shortcut": self.shortcut_alpha}
        budget_rank = self.budget_ranks.get(site.role, self.capacity(site.role))
        return Scaling(self.scaling, alphas[site.kind], budget_rank)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, the inverse of `Space(**values)`."""
        return asdict(self)
