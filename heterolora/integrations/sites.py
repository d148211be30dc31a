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
from heterolora.integrations.peft import Factors, places, unsupported, write
from heterolora.sites import Site

STATE = "heterolora"
"""The key in an optimizer's first parameter group under which a checkpoint stores what is off.

`kept` holds, for each site, the columns of its B that are off, as they were trained.
"""


class PeftAdapter:
    """One PEFT adapter, whose first `rank` ranks are on.

    Columns of B that are off are zero in the model, so that anything that saves, merges or loads it
    has the function that was trained. Their values are kept in the optimizer, which a Trainer's
    checkpoint also contains.

    Args:
        module: PEFT's LoRA layer.
        name: the name of the adapter in that layer.
        site: the site of the adapter.
        optimizer: the optimizer that trains it.
    """

    def __init__(
        self, module: Any, name: str, site: Site, optimizer: torch.optim.Optimizer
    ) -> None:
        self.module: nn.Module = module
        self.A: nn.Parameter = module.lora_A[name].weight
        self.B: nn.Parameter = module.lora_B[name].weight
        self.scaling = float(module.scaling[name])
        self._name = name
        self._site = str(site)
        self._optimizer = optimizer
        self._rank = self.capacity

    @property
    def capacity(self) -> int:
        """The largest number of ranks that can be on: PEFT's r."""
        return self.A.shape[0]

    @property
    def unit_cost(self) -> int:
        """The number of parameters in one rank: in_features + out_features."""
        return self.A.shape[1] + self.B.shape[0]

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """Copies of A and B as they were trained, with all ranks, on or off."""
        a, b = self.A.detach().clone(), self.B.detach().clone()
        if self._site in self._kept:
            b[:, self._rank :] = self._kept[self._site].to(b)[:, self._rank :]
        return a, b

    @property
    def delta(self) -> Tensor:
        """`scaling B A` with all ranks on."""
        a, b = self.matrices
        return self.scaling * (b @ a)

    @property
    def _kept(self) -> dict[str, Tensor]:
        """The columns that are off, by site; looked up each time, as loading replaces the dict."""
        state: dict[str, Any] = self._optimizer.param_groups[0].setdefault(STATE, {})
        kept: dict[str, Tensor] = state.setdefault("kept", {})
        return kept

    def substitutes(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return the weights by name; PEFT's scaling applies to any number of ranks."""
        return {f"lora_A.{self._name}.weight": a, f"lora_B.{self._name}.weight": b}

    @property
    def rank(self) -> int:
        """The number of ranks that are on; 0 means off."""
        return self._rank

    @rank.setter
    def rank(self, rank: int) -> None:
        _, whole = self.matrices
        off = whole.clone()
        off[:, :rank] = 0
        if bool(off.any()):
            self._kept[self._site] = off
        else:
            self._kept.pop(self._site, None)
        with torch.no_grad():
            self.B.copy_(whole - off)
        self._rank = rank

    def resume(self, rank: int) -> None:
        """Accept B as it was loaded, with `rank` ranks on."""
        self._rank = rank

    def follow(self) -> RemovableHandle:
        """From now on, zero the gradients of what is off, before anything clips or sums them.

        Those of A are zero anyway, because B is.

        Returns:
            A handle whose `remove()` undoes this.
        """
        hooked: Any = self.B  # mypy considers its method untyped
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
        model: a `PeftModel`, whose active adapter is used.
        optimizer: the optimizer that trains it.
        seed: the seed of proxies and of tie-breaking.

    Raises:
        ModelError: if it is not a PEFT model with plain LoRA on linear layers of a known family.
    """

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
        found = lora_layers(model)
        active = model.active_adapter
        adapters = {site: PeftAdapter(at, active, site, optimizer) for site, at in found.items()}
        super().__init__(model, adapters, seed)

    @property
    def linears(self) -> Mapping[Site, nn.Module]:
        """The linear layer that each adapter is added to."""
        layers: dict[Site, Any] = {site: adapter.module for site, adapter in self.items()}
        return {site: layer.get_base_layer() for site, layer in layers.items()}

    def resume(self, ranks: Mapping[str, int]) -> None:
        """Accept the weights as they were loaded, with these ranks on."""
        for site, adapter in self.items():
            adapter.resume(ranks[str(site)])


def lora_layers(model: Any) -> dict[Site, Any]:
    """Return the LoRA layers of a PEFT model, by site.

    Raises:
        ModelError: as for `PeftSites`.
    """
    if not hasattr(model, "peft_config"):
        raise ModelError(
            f"{type(model).__name__}: is not a PEFT model; make one with "
            "peft.get_peft_model(model, LoraConfig(...))"
        )
    name = model.active_adapter
    if said := unsupported(model.peft_config[name]):
        raise ModelError(f"{said}: ranks can be switched only in plain LoRA; use LoraConfig(r=...)")
    base = model.get_base_model()
    layers = {
        where: module
        for where, module in base.named_modules()
        if name in getattr(module, "lora_A", {}) or name in getattr(module, "lora_embedding_A", {})
    }
    known = places(base)
    if others := sorted(layers.keys() - known.keys()):
        raise ModelError(
            f"{others[0]}: has an adapter, but is not a known projection of "
            f"{family_of(base).model_type} models; leave it out of LoraConfig(target_modules=...)"
        )
    return {site: layers[where] for where, site in known.items() if where in layers}


def write_ranks(model: Any, folder: str | Path, card: str | None = None) -> None:
    """Write a PEFT model's adapter without the ranks that are off: smaller, with the same logits.

    A rank is off if its column of B is zero.

    Args:
        model: a `PeftModel`, such as `HeteroLoRACallback` leaves it.
        folder: the folder to write to.
        card: the content of its `README.md`; none is written if None.

    Raises:
        ModelError: if it is not a PEFT model with plain LoRA, or no rank is on.
        RecordError: if it cannot be written, for example because the disk is full.
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
