"""Adapters by site whose ranks can be scored and switched, whatever library made them."""

from collections.abc import Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from heterolora.sites import Site


class Adapter(Protocol):
    """A low-rank adapter: the first `rank` rows of A, and columns of B, are on."""

    A: nn.Parameter
    B: nn.Parameter
    rank: int

    @property
    def capacity(self) -> int:
        """The most ranks that can be on: the rows of A."""

    @property
    def unit_cost(self) -> int:
        """What one rank costs: in_features + out_features parameters."""

    @property
    def module(self) -> nn.Module:
        """The module of the model that has A and B."""

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """Copies of A and B with all ranks, on or off, as they were trained."""

    @property
    def delta(self) -> Tensor:
        """What it adds to the weight of a linear layer with all ranks on: `scaling B A`."""

    def substitutes(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """What is put in place of the tensors of `module`, by name, to compute with A and B.

        All their ranks are on then.
        """


AnAdapter = TypeVar("AnAdapter", bound=Adapter)


class HasRanks(Protocol):
    """What says the rank of each site, such as an allocation."""

    @property
    def ranks(self) -> Mapping[Site, int]:
        """The rank of each site; 0 is off."""


class Ranked(Mapping[Site, AnAdapter], Generic[AnAdapter]):
    """A mapping from each site to its adapter, in the order in which sites are reported.

    Args:
        model: has the adapters among its modules.
        adapters: the adapter at each site.
        seed: of the run; proxies that draw weights take their streams from it, and so do ties.

    Attributes:
        model: as given.
        seed: as given.
    """

    def __init__(
        self, model: PreTrainedModel, adapters: Mapping[Site, AnAdapter], seed: int = 0
    ) -> None:
        self.model = model
        self.seed = seed
        self._adapters = dict(adapters)

    def __getitem__(self, site: Site) -> AnAdapter:
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
    def linears(self) -> Mapping[Site, nn.Module]:
        """The linear layer beside each adapter, without it; a shortcut has none."""
        return {}

    @property
    def rows(self) -> Mapping[Site, slice]:
        """Of that weight, the rows beside an adapter of a part of the layer; no other sites."""
        return {}

    @property
    def count(self) -> int:
        """The adapter parameters that are on."""
        return sum(adapter.rank * adapter.unit_cost for adapter in self.values())
