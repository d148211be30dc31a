"""All adapters of a wired model by site: ranks, counts, and their state."""

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
    """The adapters and the task head of a model; everything else in it is frozen.

    Args:
        model: the wired model; the adapters are modules in it.
        adapters: the adapter at each site.
        head: the parameters of the task head, trained whatever the allocation.
        seed: of the run; proxies that draw weights take their streams from it.
        space: what the adapters were made of.

    Attributes:
        head: the parameters of the task head, by their names in the model.
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
        super().__init__(model, adapters, seed)
        self.space = space or Space()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.head = {names[id(parameter)]: parameter for parameter in head}
        model.requires_grad_(False)
        for parameter in self.named_tensors().values():
            parameter.requires_grad_(True)

    @property
    def linears(self) -> Mapping[Site, nn.Linear]:
        """The linear layer beside each adapter, without it; a shortcut has none."""
        carriers = self._carriers
        return {site: carriers[id(a)].linear for site, a in self.items() if id(a) in carriers}

    @property
    def rows(self) -> Mapping[Site, slice]:
        """Of that weight, the rows beside an adapter of a part of the layer; no other sites."""
        found = {site: self._carriers.get(id(adapter)) for site, adapter in self.items()}
        return {s: slice(m.start, m.end) for s, m in found.items() if isinstance(m, LoRARows)}

    @property
    def _carriers(self) -> dict[int, LoRALinear | LoRARows]:
        """What puts an adapter beside a layer, by the adapter's id."""
        modules = self.model.modules()
        return {id(m.adapter): m for m in modules if isinstance(m, LoRALinear | LoRARows)}

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
