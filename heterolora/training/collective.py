"""Searches and weights that the processes of one run share."""

from dataclasses import dataclass
from typing import Any

from heterolora.adapters import Adapters
from heterolora.sites import Site
from heterolora.strategies import Search
from heterolora.training.processes import Processes
from heterolora.training.weights import Weights


@dataclass
class SharedSearch(Search):
    """A search that every process makes; the result of the first process counts.

    Each process scores the whole sample. Devices of one kind find the same scores; where they do
    not, differences in the last digits could lead the processes to different selections.
    """

    def __call__(self, share: float = 1.0) -> dict[str, Any]:
        """Search as in one process."""
        processes = Processes()
        with processes.minding():
            own = super().__call__(share)
        made, state = processes.broadcast((own, self.state_dict()))
        self.load_state_dict(state)
        self.adapters.apply({Site.parse(name): rank for name, rank in made["ranks"].items()})
        return made


class SharedWeights:
    """Weights that the first process saves and that all processes load.

    Args:
        adapters: the adapters of this process.
        kept: what saves the weights, in the first process; None in the others.
    """

    def __init__(self, adapters: Adapters, kept: Weights | None) -> None:
        self._adapters = adapters
        self._kept = kept

    def save(self, name: str, epoch: int) -> None:
        """Save the weights in the first process; they are the same in all processes."""
        if self._kept is not None:
            self._kept.save(name, epoch)

    def load(self, name: str) -> None:
        """Restore the saved weights in every process. Every process has to call this."""
        if self._kept is not None:
            self._kept.load(name)
        self._adapters.load_state_dict(Processes().broadcast(self._adapters.state_dict()))
