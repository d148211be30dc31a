"""Linear probing."""

from dataclasses import dataclass

from heterolora.adapters import Adapters
from heterolora.errors import ModelError
from heterolora.methods.base import Given, Method, Trained


@dataclass(frozen=True)
class Head(Method):
    """Trains only the task head, whatever the budget."""

    def apply(self, given: Given) -> Adapters:
        """Freeze everything but the head.

        Raises:
            ModelError: if the model has no new head for the task.
        """
        if not given.loaded.head:
            raise ModelError(
                "method=head: the model has no new head, so nothing would be trained; choose "
                "another method"
            )
        given.prepare()
        return Trained(given.model, {}, given.loaded.head, given.seed)
