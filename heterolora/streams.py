"""Named random streams, all derived from a run's one seed; without torch.

Each use of randomness (initialization, data order, dropout, selection, probe) has a stream of its
own, so that drawing more in one never shifts another, and seed 0 is a seed like any other. The
spelling of a name decides the numbers: "initialisation" stays as it was first written.
"""

import hashlib
import random


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream `names` of the run `seed`; equal on every machine and Python."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def python_generator(seed: int, *names: object) -> random.Random:
    """The stream `names` for code that does without torch, such as selection."""
    return random.Random(derive(seed, *names))
