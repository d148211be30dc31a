"""All adapters of a wired model by site: freezing, switching, counting, and their state."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from heterolora.adapters.low_rank import LowRank
from heterolora.sites import Site


class Inventory:
    """The adapters and the task head of a model; everything else in it is frozen.

    Args:
        model: the wired model; the adapters are modules in it.
        adapters: the adapter at each site, in the order in which sites are reported.
        head: the parameters of the task head, trained whatever the allocation.
    """

    def __init__(
        self, model: PreTrainedModel, adapters: Mapping[Site, LowRank], head: Iterable[nn.Parameter]
    ) -> None:
        self.model = model
        self.adapters = dict(adapters)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.head = {names[id(parameter)]: parameter for parameter in head}
        model.requires_grad_(False)
        for parameter in (*self.adapter_parameters(), *self.head.values()):
            parameter.requires_grad_(True)
        self.enable_only(self.adapters)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site, on or off."""
        return tuple(self.adapters)

    def adapter_parameters(self) -> list[nn.Parameter]:
        """A and B of every site, on or off."""
        return [p for adapter in self.adapters.values() for p in (adapter.A, adapter.B)]

    def costs(self) -> dict[Site, int]:
        """The adapter parameters of each site."""
        return {site: adapter.cost for site, adapter in self.adapters.items()}

    def unit_costs(self) -> dict[Site, int]:
        """What one rank costs at each site."""
        return {site: adapter.unit_cost for site, adapter in self.adapters.items()}

    @property
    def enabled(self) -> frozenset[Site]:
        """The sites that are on."""
        return self._enabled

    def enable_only(self, sites: Iterable[Site]) -> None:
        """Switch exactly `sites` on. What is switched off keeps its weights as they stand."""
        chosen = frozenset(sites)
        unknown = chosen - self.adapters.keys()
        assert not unknown, f"not in the inventory: {sorted(map(str, unknown))}"
        for site, adapter in self.adapters.items():
            adapter.gate.fill_(float(site in chosen))
        self._enabled = chosen

    def spare_disabled(self, optimizer: torch.optim.Optimizer) -> None:
        """Make `optimizer` pass over adapters that are off: weights, moments and decay stay.

        Multiplying by a closed gate gives zero gradients, and an optimizer decays weights and
        moments under a zero gradient; it leaves alone only parameters that have none.
        """

        def drop_gradients(*_: object) -> None:
            for site, adapter in self.adapters.items():
                if site not in self._enabled:
                    adapter.A.grad = adapter.B.grad = None

        optimizer.register_step_pre_hook(drop_gradients)

    def enabled_count(self) -> int:
        """The adapter parameters at the sites that are on."""
        return sum(self.adapters[site].cost for site in self._enabled)

    def head_count(self) -> int:
        """The parameters of the task head."""
        return sum(parameter.numel() for parameter in self.head.values())

    def state(self) -> dict[str, Tensor]:
        """All trained weights by name: `layers.3.q.A`, `layers.3.q.B`, and `head.<name>`."""
        state: dict[str, Tensor] = {}
        for site, adapter in self.adapters.items():
            state[f"{site}.A"] = adapter.A.detach()
            state[f"{site}.B"] = adapter.B.detach()
        return state | {f"head.{name}": p.detach() for name, p in self.head.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights that `state()` gave, in place.

        Raises:
            KeyError: if a name is missing from `state` or unknown here.
        """
        own = self.state()
        if own.keys() != state.keys():
            raise KeyError(f"names that differ: {sorted(own.keys() ^ state.keys())}")
        for name, tensor in own.items():
            tensor.copy_(state[name])
