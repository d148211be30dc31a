"""Torch's generators for the named random streams of a run (`heterolora.streams`)."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from heterolora.streams import derive

CPU = torch.device("cpu")


def torch_generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for the stream `names`. CPU, so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def global_stream(seed: int, *names: object, device: torch.device = CPU) -> Iterator[None]:
    """Torch's global generators run on the stream `names` inside, and are as before afterwards.

    Those are the CPU's and that of `device`; other devices' are neither read nor touched.
    """
    before = global_states(device)
    stream = derive(seed, *names)
    torch.default_generator.manual_seed(stream)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(stream)
    elif device.type == "mps":
        torch.mps.manual_seed(stream)
    try:
        yield
    finally:
        set_global_states(before, device)


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
