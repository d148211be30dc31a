"""Named random streams, all derived from the single seed of a run.

Each use of randomness (initialization, data order, dropout, selection, probe) has a stream of its
own, so that drawing more from one never shifts another; 0 is a seed like any other. The spelling
of a name determines its numbers, so "initialisation" stays as it was first written.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from heterolora.settings import torch


def derive(seed: int, *names: object) -> int:
    """Return a 63-bit seed for the stream `names` of the run `seed`.

    It is the same on every machine and in every version of Python.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def python_generator(seed: int, *names: object) -> random.Random:
    """Return a generator for the stream `names`, for code without torch, such as selection."""
    return random.Random(derive(seed, *names))


def torch_generator(seed: int, *names: object) -> torch.Generator:
    """Return a CPU generator for the stream `names`: every device then sees the same numbers."""
    return torch.Generator().manual_seed(derive(seed, *names))


class Stream:
    """Inside `with`, torch's global generators draw from the stream `names`.

    These are the generators of the CPU and of `device`; those of other devices are neither read nor
    changed. Outside they are as before, and the next `with` continues where the last one ended.
    """

    def __init__(self, seed: int, *names: object, device: torch.device | None = None) -> None:
        cpu = torch.device("cpu")
        self._device = device or cpu
        stream = derive(seed, *names)
        self.states = {
            kind: torch.Generator(where).manual_seed(stream).get_state()
            for kind, where in {"cpu": cpu, self._device.type: self._device}.items()
        }
        self._before: dict[str, torch.Tensor] = {}

    def __enter__(self) -> Self:
        self._before = global_states(self._device)
        set_global_states(self.states, self._device)
        return self

    def __exit__(self, *_: object) -> None:
        self.states = global_states(self._device)
        set_global_states(self._before, self._device)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the position of the stream, as generator states by device type."""
        return dict(self.states)

    def load_state_dict(self, states: Mapping[str, torch.Tensor]) -> None:
        """Restore a state from `state_dict`."""
        self.states = dict(states)


def global_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of torch's global generators for the CPU and `device`, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_global_states(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Set torch's global generators to states from `global_states`."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def deterministic_kernels() -> Iterator[None]:
    """Inside the context, torch uses kernels that give the same bits on every call."""
    # cuBLAS reads this when its first handle is created; without it, torch refuses to be
    # deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
