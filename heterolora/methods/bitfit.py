"""BitFit (https://arxiv.org/abs/2106.10199)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.errors import ModelError
from heterolora.methods.base import Given, Method

if TYPE_CHECKING:
    from heterolora.adapters import Adapters


@dataclass(frozen=True)
class BitFit(Method):
    """Trains every bias, including those of norms, whatever the budget."""

    def apply(self, given: Given) -> Adapters:
        """Freeze everything but biases and the head.

        Raises:
            ModelError: if the model has no biases, like Llama.
        """
        from heterolora.adapters.trained import Trained

        own = {n: p for n, p in given.without_head().items() if n.rpartition(".")[2] == "bias"}
        if not own:
            raise ModelError(
                f"method=bitfit: {given.loaded.family.model_type} models have no biases; choose "
                "another method or model"
            )
        given.prepare()
        return Trained(given.model, own, given.loaded.head, given.seed)
