"""Parameters of a model that PEFT's AdaLoRA prunes as they are trained."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from heterolora.adapters.full_parameters import Trained

AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
"""The running averages over steps that PEFT's allocator keeps."""


class Pruned(Trained):
    """The trained parameters of AdaLoRA, whose ranks are pruned during the optimizer's steps."""

    def __init__(
        self, model: Any, own: Mapping[str, nn.Parameter], head: Iterable[nn.Parameter], seed: int
    ) -> None:
        super().__init__(model, own, head, seed)
        self._steps = 0
        self._tuner = model.base_model
        self._config = model.peft_config[model.active_adapter]

    @property
    def count(self) -> int:
        """The parameters of the remaining ranks, without the head's."""
        total = 0
        for name, e in self._own.items():
            if "lora_E" in name:
                a, b = (self._own[name.replace("lora_E", f"lora_{x}")] for x in "AB")
                left = (self._config.rank_pattern or {}).get(name.removeprefix("base_model.model."))
                ranks = len(e) if left is None else sum(left)
                total += ranks * (1 + a.shape[1] + b.shape[0])
        return total

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Add the gradient of the penalty before each step, and prune after it."""
        optimizer.register_step_pre_hook(lambda *_: self._penalize())
        optimizer.register_step_post_hook(lambda *_: self._prune())

    def _penalize(self) -> None:
        """Add the gradient of `weight mean_M ||M M^T - I||_F` over every P^T and Q."""
        with torch.enable_grad():
            norms: list[Tensor] = []
            for name, parameter in self._own.items():
                if "lora_E" not in name:
                    m = parameter if "lora_A" in name else parameter.T
                    norms.append(torch.linalg.matrix_norm(m @ m.T - torch.eye(len(m)).to(m)))
            penalty = self._config.orth_reg_weight * torch.stack(norms).mean()
            torch.autograd.backward(penalty)

    def _prune(self) -> None:
        self._steps += 1
        self._tuner.update_and_allocate(self._steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights and the allocator's state."""
        allocator = self._tuner.rankallocator
        averages = {name: dict(getattr(allocator, name)) for name in AVERAGES}
        kept = {"steps": self._steps, "ranks": self._config.rank_pattern, **averages}
        return {**super().state_dict(), "allocator": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, or the weights alone."""
        super().load_state_dict(state)
        kept = state.get("allocator")
        if kept is None:  # weights alone, after which no step is made
            return
        self._steps, self._config.rank_pattern = kept["steps"], kept["ranks"]
        allocator = self._tuner.rankallocator
        for name in AVERAGES:
            device = self.model.device
            setattr(allocator, name, {k: tensor.to(device) for k, tensor in kept[name].items()})
        allocator.ipt = dict(allocator.exp_avg_ipt)  # the allocator looks at its keys
