"""Linear probing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.errors import ModelError
from heterolora.methods.base import Given, Method

if TYPE_CHECKING:
    from heterolora.adapters import Adapters


@dataclass(frozen=True)
class Head(Method):
    """Trains only the task head, whatever the budget."""

    def apply(self, given: Given) -> Adapters:
        """Freeze everything but the head.

        Raises:
            ModelError: if the model has no new head for the task.
        """
        from heterolora.adapters.full_parameters import Trained

        if not given.loaded.head:
            raise ModelError(
                "method=head: the model has no new head, so nothing would be trained; choose "
                "another method"
            )
        given.prepare()
        return Trained(given.model, {}, given.loaded.head, given.seed)
