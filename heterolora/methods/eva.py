"""EVA (https://arxiv.org/abs/2410.07170)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heterolora.errors import ModelError, Problem
from heterolora.losses import inputs
from heterolora.methods.base import Given, Method
from heterolora.methods.peft import made, nearest, trainable
from heterolora.seeding import Stream
from heterolora.settings import Situation, setting

if TYPE_CHECKING:
    from heterolora.adapters import Adapters


@dataclass(frozen=True, kw_only=True)
class Eva(Method):
    """LoRA whose A starts as the principal directions of each layer's inputs, by PEFT.

    Ranks go where they explain most of the inputs' variance: a layer can have up to `rho` times the
    rank of plain LoRA, and the total number of ranks is the same.
    """

    rho: float = setting(
        2.0, help="maximum rank of a layer, as a multiple of the budget's rank", ge=1
    )
    alpha: float = setting(16, help="alpha, the numerator of the scaling", gt=0)
    examples: int = setting(256, help="training examples whose inputs are decomposed", gt=0)
    batch_size: int = setting(32, help="examples per forward pass", gt=0)

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield problems as for any baseline, and of projections that are no whole layers."""
        yield from super().problems(situation)
        yield from self.whole_layers(situation)

    def apply(self, given: Given) -> Adapters:
        """Decompose the inputs, and let PEFT prepare the model.

        Raises:
            ModelError: if `rho` allows more ranks than a layer has inputs.
        """
        targets = given.targets
        plain = {"_target_": "peft.LoraConfig", "target_modules": targets}
        rank = nearest(given, plain, "r")
        layers: list[Any] = [given.model.get_submodule(name) for name in targets]
        width = min(layer.in_features for layer in layers)
        if rank * self.rho > width:
            raise ModelError(
                f"method.rho={self.rho:g}: allows more ranks than the {width} inputs of a layer; "
                f"use at most {width / rank:g}"
            )
        from peft import EvaConfig
        from peft.tuners.lora.eva import initialize_lora_eva_weights

        from heterolora.adapters.full_parameters import Trained

        settings = {
            **plain,
            "r": rank,
            "lora_alpha": self.alpha,
            "init_lora_weights": "eva",
            "eva_config": EvaConfig(rho=self.rho),
        }
        batches = [inputs(b) for b in given.train.in_order(self.batch_size, self.examples)]
        with Stream(given.seed, "initialisation", device=given.model.device):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about saving memory
                model = made(given.model, settings)
            initialize_lora_eva_weights(model, batches, show_progress_bar=False)
        given.prepare()
        return Trained(model, trainable(model), given.loaded.head, given.seed)
