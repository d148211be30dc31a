"""All adapters of a wired model by site: ranks, counts, and their state."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from heterolora.adapters.low_rank import LowRank
from heterolora.adapters.space import Space
from heterolora.sites import Site


class HasRanks(Protocol):
    """What says the rank of each site, such as an allocation."""

    @property
    def ranks(self) -> Mapping[Site, int]:
        """The rank of each site; 0 is off."""


class Adapters(Mapping[Site, LowRank]):
    """The adapters and the task head of a model; everything else in it is frozen.

    A mapping from each site to its adapter, in the order in which sites are reported.

    Args:
        model: the wired model; the adapters are modules in it.
        adapters: the adapter at each site.
        head: the parameters of the task head, trained whatever the allocation.
        seed: of the run; proxies that draw weights take their streams from it.
        space: what the adapters were made of.

    Attributes:
        model: the wired model.
        head: the parameters of the task head, by their names in the model.
        seed: as given.
        space: as given.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapters: Mapping[Site, LowRank],
        head: Iterable[nn.Parameter] = (),
        seed: int = 0,
        space: Space | None = None,
    ) -> None:
        self.model = model
        self.space = space or Space()
        self.seed = seed
        self._adapters = dict(adapters)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.head = {names[id(parameter)]: parameter for parameter in head}
        model.requires_grad_(False)
        for parameter in self.named_tensors().values():
            parameter.requires_grad_(True)

    def __getitem__(self, site: Site) -> LowRank:
        return self._adapters[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site, on or off."""
        return tuple(self)

    @property
    def ranks(self) -> dict[Site, int]:
        """How many ranks are on at each site; 0 is off."""
        return {site: adapter.rank for site, adapter in self.items()}

    @property
    def capacities(self) -> dict[Site, int]:
        """The most ranks that can be on at each site."""
        return {site: adapter.capacity for site, adapter in self.items()}

    @property
    def unit_costs(self) -> dict[Site, int]:
        """The parameters of one rank at each site, d_in + d_out."""
        return {site: adapter.unit_cost for site, adapter in self.items()}

    @property
    def enabled(self) -> frozenset[Site]:
        """The sites where any rank is on."""
        return frozenset(site for site, rank in self.ranks.items() if rank)

    def apply(self, allocation: HasRanks | Mapping[Site, int]) -> None:
        """Switch ranks on and off. What is switched off keeps its weights as they stand.

        Args:
            allocation: the rank of each site; sites that it does not name are switched off.

        Raises:
            ValueError: for a site that is not here, or a rank above its capacity; then nothing
                is changed.
        """
        ranks = allocation if isinstance(allocation, Mapping) else allocation.ranks
        unknown = sorted(map(str, ranks.keys() - self.keys()))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: the model has no such site")
        for site, rank in ranks.items():
            if not 0 <= rank <= self[site].capacity:
                raise ValueError(
                    f"{site}: rank {rank} is not from 0 to its capacity, {self[site].capacity}"
                )
        for site, adapter in self.items():
            adapter.rank = ranks.get(site, 0)

    @property
    def count(self) -> int:
        """The adapter parameters that are on."""
        return sum(adapter.cost for adapter in self.values())

    @property
    def head_count(self) -> int:
        """The parameters of the task head."""
        return sum(parameter.numel() for parameter in self.head.values())

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """All that is trained: `layers.3.q.A`, `layers.3.q.B`, ..., and `head.<name>`."""
        named: dict[str, nn.Parameter] = {}
        for site, adapter in self.items():
            named |= {f"{site}.A": adapter.A, f"{site}.B": adapter.B}
        return named | {f"head.{name}": parameter for name, parameter in self.head.items()}

    def state_dict(self) -> dict[str, Any]:
        """Ranks and weights; the tensors are the model's own, not copies."""
        return {
            "ranks": {str(site): rank for site, rank in self.ranks.items()},
            "tensors": {name: tensor.detach() for name, tensor in self.named_tensors().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, in place.

        Raises:
            ValueError: if it is of other sites, capacities or another head; then nothing is
                changed.
        """
        own: dict[str, Tensor] = self.state_dict()["tensors"]
        theirs: Mapping[str, Tensor] = state["tensors"]
        if differ := sorted(own.keys() ^ theirs.keys()):
            raise ValueError(f"names that differ: {', '.join(differ)}")
        if differ := [name for name in own if own[name].shape != theirs[name].shape]:
            raise ValueError(f"shapes that differ: {', '.join(differ)}")
        self.apply({Site.parse(name): rank for name, rank in state["ranks"].items()})
        for name, tensor in own.items():
            tensor.copy_(theirs[name])
