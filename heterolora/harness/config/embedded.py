"""What the package includes: a model, and two tasks of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "starter"
"""The files, all made by `scripts/build_starter.py`."""

STARTER = "heterolora/opt-starter"
"""The `model.name` of the embedded model."""

MODELS: Mapping[str, Path] = {STARTER: FOLDER / "model"}
"""The folder of each embedded model, by `model.name`."""

PAIRS = FOLDER / "pairs.json"
"""The columns of the sentence pairs, by split; drawing them anew would take seconds in each run."""

PARAPHRASE = "heterolora/starter-paraphrase"
"""The `task.source` of the task of telling whether two sentences mean the same."""

PLANTED = "heterolora/starter-planted"
"""The `task.source` of the task whose right sites are known, given `task.planting`."""

TASKS = (PARAPHRASE, PLANTED)
"""The `task.source` of each embedded task."""


@dataclass(frozen=True)
class Teacher:
    """How the teacher of the planted task differs from the embedded model, and what it is asked.

    Attributes:
        halves: ranges of the embedded model's layers; one site is changed in each.
        rank: of each change: all that the budget of rank 2 at 16 sites gives to each of two.
        size: the Frobenius norm of a change, divided by that of the weight.
        max_length: tokens of a text.
        lead: the number of logits by which the likeliest token must lead, so that no rounding
            changes the answer; where it leads by less, nothing is asked.
        batch_size: texts per forward pass.
    """

    halves: tuple[tuple[int, int], ...] = ((0, 4), (4, 8))
    rank: int = 16
    size: float = 4.0
    max_length: int = 128
    lead: float = 0.2
    batch_size: int = 250


TEACHER = Teacher()
