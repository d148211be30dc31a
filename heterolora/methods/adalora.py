"""AdaLoRA (https://arxiv.org/abs/2303.10512)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from heterolora.adapters import Adapters
from heterolora.errors import ModelError
from heterolora.methods.base import Given, Method, Trained
from heterolora.methods.peft import made, nearest, trainable
from heterolora.seeding import Stream
from heterolora.settings import setting

AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
"""The running averages over steps that PEFT's allocator keeps."""


@dataclass(frozen=True, kw_only=True)
class AdaLoRA(Method):
    """AdaLoRA: `W0 + P diag(E) Q`, singular values pruned from 1.5 times the budget down to it.

    The budget falls with the cube of the steps, after a warm-up and before a final phase of
    training at fixed ranks. The ranks lowest in smoothed sensitivity times uncertainty are pruned.
    A penalty keeps P and Q nearly orthogonal. PEFT computes the allocation.
    """

    initial: float = setting(1.5, help="initial ranks, as a multiple of the budget's", gt=1)
    warm_up: float = setting(0.15, help="fraction of steps before the first pruning", ge=0, lt=1)
    rest: float = setting(0.5, help="fraction of steps after the last pruning", ge=0, lt=1)
    every: int = setting(1, help="steps between prunings", gt=0)
    penalty: float = setting(0.5, help="weight of the orthogonality penalty", ge=0)
    alpha: float = setting(16, help="factor that scales the update", gt=0)

    @property
    def targets_layers(self) -> bool:
        """True: PEFT adapts the linear layers of the search space."""
        return True

    def apply(self, given: Given) -> Adapters:
        """Let PEFT prepare the model.

        Raises:
            ModelError: if there are fewer than two steps.
        """
        if given.steps < 2:
            raise ModelError(
                "method=adalora: needs more than one step to prune; raise training.epochs or "
                "lower training.batch_size"
            )
        settings = {
            "_target_": "peft.AdaLoraConfig",
            "target_modules": given.targets,
            "lora_alpha": self.alpha,
            "total_step": given.steps,
            "tinit": int(self.warm_up * given.steps),
            "tfinal": min(int(self.rest * given.steps), given.steps - 2),
            "deltaT": self.every,
            "orth_reg_weight": self.penalty,
        }
        rank = nearest(given, settings, "init_r")
        settings |= {"target_r": rank, "init_r": max(rank + 1, round(self.initial * rank))}
        given.prepare()
        with Stream(given.seed, "initialisation", device=given.model.device):
            model = made(given.model, settings)
        return Pruned(model, trainable(model), given.loaded.head, given.seed)


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
