"""How much is measured, and where."""

from dataclasses import dataclass
from pathlib import Path

import torch

from heterolora.losses import Autocast
from heterolora.training.precision import autocast_for

ROOT = Path(__file__).parents[2]
BATCH_SIZE, RANK, LEARNING_RATE = 8, 8, 2e-4
LORA = {"q": RANK, "v": RANK}
SHORTCUTS = {"res1": RANK, "res2": RANK, "in": RANK, "cut": RANK}
PADDED = 512
"""The tokens to which the paper's authors pad every example."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        rounds: in which the competitors of a table take turns.
        patience: factor to the seconds after which a table begins no further round.
        steps: training steps in a round of the main model.
        padded_steps: those with examples padded to 512 tokens; they all cost the same.
        large_steps: training steps in a round of the large model.
        large_all: whether the Trainer and padded examples are measured on the large model.
        scored: examples that a search scores on.
        micro_batches: of the searches.
        runs: how many runs are packed, table by table.
        packed_steps: steps of each run in a round.
        memory_tokens: tokens of each of the eight examples whose memory is measured.
        tiny: whether models are tiny, for tests.
    """

    rounds: int = 5
    patience: float = 1.0
    steps: int = 8
    padded_steps: int = 1
    large_steps: int = 1
    large_all: bool = False
    scored: int = 256
    micro_batches: tuple[int, ...] = (8, 32, 64, 128)
    runs: tuple[int, ...] = (3, 9, 27)
    packed_steps: int = 4
    memory_tokens: int = 128
    tiny: bool = False


ON_CPU = Size()
ON_GPU = Size(patience=0.6, steps=40, padded_steps=10, large_steps=20, large_all=True)
QUICK = Size(
    rounds=2,
    steps=2,
    padded_steps=1,
    scored=16,
    micro_batches=(8, 16),
    runs=(2,),
    packed_steps=1,
    memory_tokens=16,
    tiny=True,
)


@dataclass(frozen=True)
class Setup:
    """What the command line asks for, and where it runs.

    Attributes:
        device: of all models.
        precision: `bf16` or `fp32`.
        size: how much is measured.
        model: a checkpoint's folder in place of MiniLM's shape.
        data: a folder with MRPC's parquet in place of random tokens.
        options: of the command line, for what runs in a process of its own.
    """

    device: torch.device
    precision: str
    size: Size
    model: Path | None = None
    data: Path | None = None
    options: tuple[str, ...] = ()

    @property
    def autocast(self) -> Autocast:
        """The precision of forward passes."""
        return autocast_for(self.precision, self.device)
