"""The adapters of a wired model by site: ranks, parameter counts and state."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from heterolora.adapters.lora import LoRALinear, LoRARows
from heterolora.adapters.low_rank import LowRank
from heterolora.adapters.ranked import Ranked
from heterolora.adapters.space import Space
from heterolora.sites import Site


class Adapters(Ranked[LowRank]):
    """The adapters and the task head of a model; all other parameters are frozen.

    Args:
        model: the wired model, which has the adapters among its modules.
        adapters: the adapter at each site.
        head: the parameters of the task head, which are trained whatever the allocation.
        seed: the seed of the run, from which proxies that draw weights derive their random streams.
        space: the search space that the adapters were made from; an empty one if None.

    Attributes:
        head: the parameters of the task head, by their names in the model.
        space: the search space.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapters: Mapping[Site, LowRank],
        head: Iterable[nn.Parameter] = (),
        seed: int = 0,
        space: Space | None = None,
    ) -> None:
        super().__init__(model, adapters, seed)
        self.space = space or Space()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.head = {names[id(parameter)]: parameter for parameter in head}
        model.requires_grad_(False)
        for parameter in self.named_tensors().values():
            parameter.requires_grad_(True)

    @property
    def linears(self) -> Mapping[Site, nn.Linear]:
        """The linear layer that each adapter is added to, without it; shortcuts have none."""
        carriers = self._carriers
        return {site: carriers[id(a)].linear for site, a in self.items() if id(a) in carriers}

    @property
    def rows(self) -> Mapping[Site, slice]:
        """The weight rows that an adapter covers, for sites on only part of a linear layer."""
        found = {site: self._carriers.get(id(adapter)) for site, adapter in self.items()}
        return {s: slice(m.start, m.end) for s, m in found.items() if isinstance(m, LoRARows)}

    @property
    def _carriers(self) -> dict[int, LoRALinear | LoRARows]:
        """The module that adds an adapter to a layer, by the id of the adapter."""
        modules = self.model.modules()
        return {id(m.adapter): m for m in modules if isinstance(m, LoRALinear | LoRARows)}

    @property
    def head_count(self) -> int:
        """The number of parameters in the task head."""
        return sum(parameter.numel() for parameter in self.head.values())

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """Return all trained tensors: `layers.3.q.A`, `layers.3.q.B`, ..., and `head.<name>`."""
        named: dict[str, nn.Parameter] = {}
        for site, adapter in self.items():
            named |= {f"{site}.A": adapter.A, f"{site}.B": adapter.B}
        return named | {f"head.{name}": parameter for name, parameter in self.head.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return ranks and weights; the tensors are the model's own, not copies."""
        return {
            "ranks": {str(site): rank for site, rank in self.ranks.items()},
            "tensors": {name: tensor.detach() for name, tensor in self.named_tensors().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`, in place.

        Raises:
            ValueError: if the state has other sites, capacities or head parameters; nothing is
                changed then.
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
