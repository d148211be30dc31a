"""What several processes of one run decide as one."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from heterolora.adapters import Adapters
from heterolora.interrupts import Terminated
from heterolora.sites import Site
from heterolora.strategies import Search
from heterolora.training.processes import Processes
from heterolora.training.signals import Signals
from heterolora.training.weights import Weights


class SharedSignals(Signals):
    """Signals of which one that comes to any process stops all of them, before the same step.

    `waiting` asks the others, so that every process has to read it as often.

    Args:
        processes: that make the run.
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
        """As of one process; without an error, after asking the others for the last time."""
        if error is None:
            self._ask()
        super().__exit__(kind, error, traceback)

    @property
    def waiting(self) -> bool:
        """Whether a signal has come to any process."""
        self._ask()
        return self._agreed > 0

    def obey(self) -> None:
        """Do what the signals ask for, once all processes know of them."""
        if self._agreed:
            super().obey()
            raise Terminated(self._agreed)  # it came to another, or its handler lets this one be

    def _ask(self) -> None:
        self._agreed = self._processes.largest(max(self._waiting, default=0))


@dataclass
class SharedSearch(Search):
    """A search that every process makes, of which the first one's counts.

    Each scores the whole sample. Devices of one kind find the same scores; where they are not, the
    last digits could decide otherwise in each.
    """

    def __call__(self, share: float = 1.0) -> dict[str, Any]:
        """As in one process."""
        processes = Processes()
        with processes.minding():
            own = super().__call__(share)
        made, state = processes.told((own, self.state_dict()))
        self.load_state_dict(state)
        self.adapters.apply({Site.parse(name): rank for name, rank in made["ranks"].items()})
        return made


class SharedWeights:
    """Weights that the first process keeps, and all of them go back to.

    Args:
        adapters: of this process.
        kept: in the first process what keeps them; None in the others.
    """

    def __init__(self, adapters: Adapters, kept: Weights | None) -> None:
        self._adapters = adapters
        self._kept = kept

    def save(self, name: str, epoch: int) -> None:
        """Have the first process keep the weights, which are the same in all."""
        if self._kept is not None:
            self._kept.save(name, epoch)

    def load(self, name: str) -> None:
        """Have the adapters of every process be as they were saved. Each has to ask."""
        if self._kept is not None:
            self._kept.load(name)
        self._adapters.load_state_dict(Processes().told(self._adapters.state_dict()))
