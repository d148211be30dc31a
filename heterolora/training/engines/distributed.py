"""One run in several processes, each of which computes a share of every step."""

from typing import Any

import torch
from torch import Tensor

from heterolora.losses import Batch
from heterolora.seeding import Stream, global_states, set_global_states
from heterolora.tasks import Metric
from heterolora.tasks.encoded import Encoded
from heterolora.training.engines.local import LocalEngine
from heterolora.training.evaluation import measured
from heterolora.training.processes import Processes


class DistributedEngine(LocalEngine):
    """A `LocalEngine` in each of several processes, which all make the same steps.

    Each process is given the whole batch and computes its share of the rows. With n_p losses in
    process p, the gradient of a step is

        sum_p d/dtheta (sum of the n_p losses) / sum_p n_p

    as in one process, up to rounding: gradients and loss are summed over all processes in one
    message (`all_reduce`), and every process makes the same update to its own copy. The message
    consists of the adapters and the head only. DistributedDataParallel does the same, but it would
    have to search the graph in every step for adapters that are off, be told of each new
    allocation, and be kept from giving an adapter that is off a gradient of zero.

    For every pass, each process draws dropout from a stream of its own, whose seed comes from the
    saved stream: the same distribution as in one process, but not the same elements.

    A process without a share still passes the first row through the model, without counting it: all
    processes make the same number of passes, which a sharded model requires.

    Args:
        given: positional arguments of `LocalEngine`.
        more: keyword arguments of `LocalEngine`.
    """

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._processes = Processes()
        seed, device = self.adapters.seed, self.adapters.model.device
        self.dropout = OwnStream(self._processes.rank, seed, "dropout", device=device)

    def descend(self, batch: Batch) -> Tensor:
        """Compute the gradients of the mean loss of `batch` over all processes; return the loss."""
        with self._processes.minding():
            loss = super().descend(batch)
            tensors = self.adapters.named_tensors().values()
            gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
            self._processes.all_reduce([*gradients, loss])
        return loss

    def evaluate(self, split: Encoded) -> dict[str, float]:
        """Evaluate as in one process: each takes some of the batches, whole and in order."""
        count, size = split.batches(self._evaluation_batch_size), self._processes.size
        most, own = -(-count // size), share(count, self._processes)
        rows = range(len(split))[slice(*(self._evaluation_batch_size * i for i in own))]
        metric = self._measured(split.subset(rows))
        with self._processes.minding():
            for _ in range(own[1] - own[0], most):
                self._measured(split.subset([0]))
        whole, *others = self._processes.all_gather(metric)
        for other in others:
            whole.absorb(other)
        return whole.compute()

    def _measured(self, split: Encoded) -> Metric:
        size = self._evaluation_batch_size
        with self._processes.minding():
            return measured(self.adapters.model, self.task, split, size, self.autocast)

    def _total(self, part: Batch) -> tuple[Tensor, Tensor | int]:
        total, count = super()._total(part)
        return (0 * total if isinstance(part, Idle) else total), count

    def parts(self, batch: Batch) -> list[Batch]:
        """Split this process's share of a batch into as many parts as the largest share has."""
        rows = len(batch["input_ids"])
        most = -(-rows // self._processes.size)
        first, end = share(rows, self._processes)
        size = self._micro_batch_size or most
        return [rows_of(batch, first + i, min(first + i + size, end)) for i in range(0, most, size)]


class Idle(dict[str, Tensor]):
    """A row that is passed through a model only to keep up with the other processes."""


def share(count: int, processes: Processes) -> tuple[int, int]:
    """Where this process's share of `count` items begins and ends; sizes differ by at most one."""
    return tuple(count * (processes.rank + i) // processes.size for i in (0, 1))  # type: ignore[return-value]


def rows_of(batch: Batch, first: int, end: int) -> Batch:
    """Return the rows from `first` up to, not including, `end`; an idle row if there are none."""
    if first >= end:
        return Idle({name: tensor[:1] for name, tensor in batch.items()})
    return {name: tensor[first:end] for name, tensor in batch.items()}


class OwnStream(Stream):
    """A stream common to all processes, from which each process derives numbers of its own.

    On every `with`, a number drawn from the common stream seeds this process's generators, together
    with its rank. The state is therefore the same in every process, and serves any number of
    processes.

    Args:
        rank: the rank of this process.
        seed: as for `Stream`.
        names: as for `Stream`.
        device: as for `Stream`.
    """

    def __init__(self, rank: int, seed: int, *names: object, device: torch.device) -> None:
        super().__init__(seed, *names, device=device)
        self._rank = rank

    def __enter__(self) -> "OwnStream":
        self._before = global_states(self._device)
        common = torch.Generator()
        common.set_state(self.states["cpu"])
        number = int(torch.randint(2**62, (), generator=common))
        self.states = {**self.states, "cpu": common.get_state()}
        own = Stream(number, "process", self._rank, device=self._device)
        set_global_states(own.states, self._device)
        return self

    def __exit__(self, *_: object) -> None:
        set_global_states(self._before, self._device)
