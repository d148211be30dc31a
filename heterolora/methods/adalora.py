"""AdaLoRA (https://arxiv.org/abs/2303.10512)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.errors import ModelError, Problem
from heterolora.methods.base import Given, Method
from heterolora.methods.peft import made, nearest, trainable
from heterolora.seeding import Stream
from heterolora.settings import Situation, setting

if TYPE_CHECKING:
    from heterolora.adapters import Adapters


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

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield problems as for any baseline, and of projections that are no whole layers."""
        yield from super().problems(situation)
        yield from self.whole_layers(situation)

    def apply(self, given: Given) -> Adapters:
        """Let PEFT prepare the model.

        Raises:
            ModelError: if there are fewer than two steps.
        """
        from heterolora.adapters.pruned import Pruned

        if given.steps < 2:
            raise ModelError(
                "method=adalora: needs more than one step to prune; train for more epochs, or in "
                "smaller batches"
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
