"""The LoRA adapters of a PEFT model as sites whose ranks can be scored and switched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from heterolora.adapters import Ranked
from heterolora.architectures import family_of
from heterolora.errors import ModelError
from heterolora.integrations.peft import Factors, places, write
from heterolora.sites import Site

KEPT = "heterolora_kept"
"""The columns of a B that are off, in the optimizer's state of B, as they were trained."""


class PeftAdapter:
    """One adapter of PEFT, of which the first `rank` ranks are on.

    The columns of B that are off are zero in the model, so that whatever saves, merges or loads it
    has the function that was trained. What they were is kept with the optimizer's moments, which a
    checkpoint of a Trainer holds as well.

    Args:
        module: PEFT's LoRA layer.
        name: of the adapter in it.
        optimizer: that trains it.
    """

    def __init__(self, module: Any, name: str, optimizer: torch.optim.Optimizer) -> None:
        self.module: nn.Module = module
        self.A: nn.Parameter = module.lora_A[name].weight
        self.B: nn.Parameter = module.lora_B[name].weight
        self.scaling = float(module.scaling[name])
        self._name = name
        self._optimizer = optimizer
        self._rank = self.capacity

    @property
    def capacity(self) -> int:
        """The most ranks that can be on: PEFT's r."""
        return self.A.shape[0]

    @property
    def unit_cost(self) -> int:
        """What one rank costs: in_features + out_features parameters."""
        return self.A.shape[1] + self.B.shape[0]

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """Copies of A and B with all ranks, on or off, as they were trained."""
        a, b = self.A.detach().clone(), self.B.detach().clone()
        kept = self._optimizer.state.get(self.B, {}).get(KEPT)
        if kept is not None:
            b[:, self._rank :] = kept[:, self._rank :]
        return a, b

    def substitutes(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """The weights; PEFT's scaling holds for any number of ranks."""
        return {f"lora_A.{self._name}.weight": a, f"lora_B.{self._name}.weight": b}

    @property
    def rank(self) -> int:
        """How many ranks are on; 0 is off."""
        return self._rank

    @rank.setter
    def rank(self, rank: int) -> None:
        _, whole = self.matrices
        off = whole.clone()
        off[:, :rank] = 0
        state = self._optimizer.state  # which loading puts another in the place of
        if not bool(off.any()):
            state.get(self.B, {}).pop(KEPT, None)
        elif rank == 0 or len(state.get(self.B, {})) > 0:
            state[self.B][KEPT] = off
        else:  # optimizers begin where a state is empty, which it would not be
            raise ModelError(
                "an adapter whose B was not zero before training can be on or off as a whole only; "
                "use selection='top'"
            )
        with torch.no_grad():
            self.B.copy_(whole - off)
        self._rank = rank

    def resume(self, rank: int) -> None:
        """Take B as it was loaded, with `rank` ranks on."""
        self._rank = rank

    def follow(self) -> RemovableHandle:
        """From here on what is off has zero gradients, before anything clips or sums them.

        Those of A are zero by themselves: B is.

        Returns:
            What undoes it, by `remove()`.
        """
        hooked: Any = self.B  # whose method mypy finds without types
        handle: RemovableHandle = hooked.register_hook(self._masked)
        return handle

    def _masked(self, gradient: Tensor) -> Tensor:
        if self._rank == self.capacity:
            return gradient
        masked = gradient.clone()
        masked[:, self._rank :] = 0
        return masked


class PeftSites(Ranked[PeftAdapter]):
    """All plain LoRA adapters of a PEFT model, by site.

    Args:
        model: a `PeftModel`; its active adapter is meant.
        optimizer: that trains it.
        seed: of proxies and ties.

    Raises:
        ModelError: if it is no PEFT model with plain LoRA on linear layers of a known family.
    """

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
        found = lora_layers(model)
        active = model.active_adapter
        adapters = {site: PeftAdapter(layer, active, optimizer) for site, layer in found.items()}
        super().__init__(model, adapters, seed)

    def resume(self, ranks: Mapping[str, int]) -> None:
        """Take the weights as they were loaded, with these ranks on."""
        for site, adapter in self.items():
            adapter.resume(ranks[str(site)])


def lora_layers(model: Any) -> dict[Site, Any]:
    """The LoRA layers of a PEFT model, by site.

    Raises:
        ModelError: as `PeftSites`.
    """
    if not hasattr(model, "peft_config"):
        raise ModelError(
            f"{type(model).__name__}: is no PEFT model; make one with peft.get_peft_model(model, "
            "LoraConfig(...))"
        )
    config = model.peft_config[model.active_adapter]
    extras = [
        name
        for name in ("use_dora", "lora_bias", "layer_replication")
        if getattr(config, name, None)
    ]
    if config.peft_type != "LORA" or extras:
        what = ", ".join(extras) or str(config.peft_type)
        raise ModelError(f"{what}: ranks can be switched in plain LoRA only; use LoraConfig(r=...)")
    base = model.get_base_model()
    modules = dict(base.named_modules())
    found = {
        site: modules[name]
        for name, site in places(base).items()
        if model.active_adapter in getattr(modules[name], "lora_A", {})
    }
    if not found:
        raise ModelError(
            f"the adapter '{model.active_adapter}' is on no linear layer that is known of a "
            f"{family_of(base).model_type} model; name them with LoraConfig(target_modules=...)"
        )
    return found


def write_ranks(model: Any, folder: str | Path, card: str | None = None) -> None:
    """Write a PEFT model's adapter without the ranks that are off: smaller, and the same logits.

    A rank is off where its column of B is zero.

    Args:
        model: a `PeftModel`, such as `HeteroLoRACallback` leaves it.
        folder: where.
        card: the content of its `README.md`.

    Raises:
        ModelError: if it is no PEFT model with plain LoRA, or no rank is on.
        RecordError: if there is no room.
    """
    layers, base, name = lora_layers(model), model.get_base_model(), model.active_adapter
    factors = {}
    for layer_name, site in places(base).items():
        if site in layers:
            layer = layers[site]
            a, b = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
            on = b.any(dim=0)
            if bool(on.any()):
                factors[layer_name] = Factors(a[on], b[:, on], float(layer.scaling[name]))
    head = {
        n.replace(f".modules_to_save.{name}.", "."): parameter
        for n, parameter in base.named_parameters()
        if f".modules_to_save.{name}." in n
    }
    modules = sorted(set(model.peft_config[name].modules_to_save or ()))
    write(folder, base, factors, head, modules, card)
