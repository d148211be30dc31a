"""Decisions that the processes of one run make together."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from heterolora.adapters import Adapters
from heterolora.sites import Site
from heterolora.strategies import Search
from heterolora.training.interrupts import Terminated
from heterolora.training.processes import Processes
from heterolora.training.signals import Signals
from heterolora.training.weights import Weights


class SharedSignals(Signals):
    """Signals shared by all processes: one that reaches any process stops all before the same step.

    Reading `waiting` communicates with the other processes, so every process has to read it equally
    often.

    Args:
        processes: the processes that make up the run.
    """

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self._processes = processes
        self._agreed = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Exit as in one process; without an error, first ask the other processes one last time."""
        if error is None:
            self._ask()
        super().__exit__(kind, error, traceback)

    @property
    def waiting(self) -> bool:
        """Whether any process has received a signal."""
        self._ask()
        return self._agreed > 0

    def obey(self) -> None:
        """Do what the signals ask for, once all processes know of them."""
        if self._agreed:
            super().obey()
            raise Terminated(self._agreed)  # another process received it, or its handler returned

    def _ask(self) -> None:
        self._agreed = self._processes.largest(max(self._waiting, default=0))


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
        made, state = processes.told((own, self.state_dict()))
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
        self._adapters.load_state_dict(Processes().told(self._adapters.state_dict()))
