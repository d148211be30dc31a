"""BitFit (https://arxiv.org/abs/2106.10199)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.errors import ModelError, Problem
from heterolora.methods.base import Given, Method
from heterolora.settings import Situation

if TYPE_CHECKING:
    from heterolora.adapters import Adapters


@dataclass(frozen=True)
class BitFit(Method):
    """Trains every bias, including those of norms, whatever the budget."""

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield problems as for any baseline, and of parameters that are not in fp32."""
        yield from super().problems(situation)
        yield from self.own_parameters(situation)

    def apply(self, given: Given) -> Adapters:
        """Freeze everything but biases and the head.

        Raises:
            ModelError: if the model has no biases, like Llama.
        """
        from heterolora.adapters.full_parameters import Trained

        own = {n: p for n, p in given.without_head().items() if n.rpartition(".")[2] == "bias"}
        if not own:
            raise ModelError(
                f"method=bitfit: {given.loaded.family.model_type} models have no biases; choose "
                "another method or model"
            )
        given.prepare()
        return Trained(given.model, own, given.loaded.head, given.seed)
