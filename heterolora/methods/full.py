"""Full fine-tuning."""

from dataclasses import dataclass

from heterolora.adapters import Adapters
from heterolora.methods.base import Given, Method, Trained


@dataclass(frozen=True)
class Full(Method):
    """Trains every parameter of the model, whatever the budget."""

    def apply(self, given: Given) -> Adapters:
        """Prepare the model without freezing anything."""
        given.prepare()
        return Trained(given.model, given.without_head(), given.loaded.head, given.seed)
