"""Full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.methods.base import Given, Method

if TYPE_CHECKING:
    from heterolora.adapters import Adapters


@dataclass(frozen=True)
class Full(Method):
    """Trains every parameter of the model, whatever the budget."""

    def apply(self, given: Given) -> Adapters:
        """Prepare the model without freezing anything."""
        from heterolora.adapters.trained import Trained

        given.prepare()
        return Trained(given.model, given.without_head(), given.loaded.head, given.seed)
