"""What a trainer asks of what trains."""

from typing import Any, Protocol

from torch import Tensor

from heterolora.adapters import Adapters
from heterolora.losses import Batch
from heterolora.tasks.encoded import Encoded


class Engine(Protocol):
    """Makes optimizer steps on the named tensors of a model's adapters, and measures it.

    Attributes:
        adapters: of the model that is trained.
    """

    adapters: Adapters

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step; its mean loss, left on the device."""

    def scale_learning_rate(self, factor: float) -> None:
        """Have the next steps made at `factor` times the learning rate that was configured."""

    def evaluate(self, split: Encoded) -> dict[str, float]:
        """The mean loss (`loss`) and the metrics over a split, dropout off."""

    def state_dict(self) -> dict[str, Any]:
        """All that steps change: weights, ranks, moments."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
