"""Named random streams, all derived from the run's one seed.

Each use of randomness (initialisation, data order, dropout, selection, probe) has a stream of its
own, so that drawing more in one never shifts another, and seed 0 is a seed like any other.
"""

import hashlib
import os
import random
from collections.abc import Iterator
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


def use_deterministic_kernels() -> None:
    """Ask torch for kernels that give the same bits on every call."""
    # cuBLAS reads this when the first handle is made; without it torch refuses to be deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
