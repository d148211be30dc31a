"""Named random streams, all derived from the run's one seed.

Each use of randomness (initialisation, data order, dropout, selection, probe) has a stream of its
own, so that drawing more in one never shifts another, and seed 0 is a seed like any other.
"""

import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream `names` of the run `seed`; equal on every machine and Python."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for the stream `names`. CPU, so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive(seed, *names))


def python_generator(seed: int, *names: object) -> random.Random:
    """The stream `names` for code that does without torch, such as selection."""
    return random.Random(derive(seed, *names))


@contextmanager
def global_stream(seed: int, *names: object) -> Iterator[None]:
    """Torch's global generators run on the stream `names` inside, and are as before afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *names))
        yield


def global_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Where torch's global generators stand: the CPU's, and that of `device`, by its type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_global_states(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Have torch's global generators go on from what `global_states` gave."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["mps"])


def use_deterministic_kernels() -> None:
    """Ask torch for kernels that give the same bits on every call."""
    # cuBLAS reads this when the first handle is made; without it torch refuses to be deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
