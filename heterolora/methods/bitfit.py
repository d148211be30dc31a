"""BitFit (https://arxiv.org/abs/2106.10199)."""

from dataclasses import dataclass

from heterolora.adapters import Adapters
from heterolora.errors import ModelError
from heterolora.methods.base import Given, Method, Trained


@dataclass(frozen=True)
class BitFit(Method):
    """Trains every bias, including those of norms, whatever the budget."""

    def apply(self, given: Given) -> Adapters:
        """Freeze everything but biases and the head.

        Raises:
            ModelError: if the model has no biases, like Llama.
        """
        own = {n: p for n, p in given.without_head().items() if n.rpartition(".")[2] == "bias"}
        if not own:
            raise ModelError(
                f"method=bitfit: {given.loaded.family.model_type} models have no biases; choose "
                "another method or model"
            )
        given.prepare()
        return Trained(given.model, own, given.loaded.head, given.seed)
