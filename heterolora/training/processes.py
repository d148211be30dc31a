"""The processes of one run, and how they communicate.

Messages go through torch.distributed, whose default group has to exist: facts about the run over
the CPU (gloo), computed tensors over the device that computed them (NCCL on GPUs).
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from heterolora.errors import TrainingError

Value = TypeVar("Value")
CPU = torch.device("cpu")
FAILED = "heterolora/failed"
"""The key in the group's store under which the first process to fail leaves its reason."""

LOST = (
    "closed by peer",
    "Connection reset",
    "Broken pipe",
    "Socket Timeout",
    "Timed out waiting",
)
"""What gloo's errors say when another process has ended: it has no exception class for that."""


class LostError(TrainingError):
    """Another process of the run has ended."""


class Processes:
    """All processes of the default group, led by the first.

    Attributes:
        rank: the rank of this process, from 0.
        size: the number of processes.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._spoke = False

    @property
    def leads(self) -> bool:
        """Whether this process keeps the record and talks to the user."""
        return self.rank == 0

    @property
    def hardware(self) -> dict[str, Any]:
        """What `provenance.json` says of the processes."""
        return {"processes": self.size}

    @property
    def agree(self) -> Callable[[int], int] | None:
        """The function by which all processes agree on a signal: `max`."""
        return self.max

    def release(self) -> None:
        """Let the other processes end, if they still wait for a first message."""
        if not self._spoke:
            self.broadcast(False)

    def broadcast(self, value: Value) -> Value:
        """Return the first process's value, its tensors on the CPU. Every process has to call this.

        Raises:
            LostError: if another process has ended.
        """
        self._spoke = True
        written = io.BytesIO()
        if self.leads:
            torch.save(value, written)
        message: list[Any] = [written.getvalue()]
        with self.minding():
            dist.broadcast_object_list(message, src=0, device=CPU)
        if self.leads:
            return value
        read: Value = torch.load(io.BytesIO(message[0]), map_location=CPU, weights_only=True)
        return read

    def all_gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, in the order of their ranks; the same everywhere."""
        values: list[Any] = [None] * self.size
        with self.minding():
            dist.all_gather_object(values, value)
        return values

    def max(self, number: int) -> int:
        """Return the largest number of any process."""
        message = torch.tensor(number)
        with self.minding():
            dist.all_reduce(message, op=dist.ReduceOp.MAX)
        return int(message)

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one message.

        Args:
            tensors: tensors of the same shapes in every process, all on one device.
        """
        with torch.no_grad():
            message = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(message)
            start = 0
            for tensor in tensors:
                end = start + tensor.numel()
                tensor.copy_(message[start:end].view_as(tensor))
                start = end

    def fail(self, reason: str) -> None:
        """Leave the reason why this process ends, unless another process has failed before."""
        with suppress(Exception):  # the store may have ended with the process that held it
            said = f"process {self.rank} of {self.size}: {reason}"
            _store().compare_set(FAILED, "", said)

    @contextmanager
    def minding(self) -> Iterator[None]:
        """Report another process's end when something inside the context waits for it.

        Raises:
            LostError: with the reason that process left, if any.
        """
        try:
            yield
        except RuntimeError as error:
            if not any(sign in str(error) for sign in LOST):
                raise
            raise LostError(self._last_words()) from error

    def _last_words(self) -> str:
        with suppress(Exception):
            if _store().check([FAILED]):
                said: bytes = _store().get(FAILED)
                return said.decode()
        return (
            "another process of this run ended unexpectedly (killed, or its node failed); run "
            "the same command again to resume from the last checkpoint"
        )


class OneProcess(Processes):
    """A run that is made by a single process."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 1

    @property
    def hardware(self) -> dict[str, Any]:
        """Nothing: one process is not worth mentioning."""
        return {}

    @property
    def agree(self) -> None:
        """There is nobody to agree with."""

    def broadcast(self, value: Value) -> Value:
        """Return the value."""
        return value


ONE_PROCESS = OneProcess()


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
