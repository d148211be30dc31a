"""Named random streams, all derived from the single seed of a run; without torch.

Each use of randomness (initialization, data order, dropout, selection, probe) has a stream of its
own, so that drawing more from one never shifts another; 0 is a seed like any other. The spelling
of a name determines its numbers, so "initialisation" stays as it was first written.
"""

import hashlib
import random


def derive(seed: int, *names: object) -> int:
    """Return a 63-bit seed for the stream `names` of the run `seed`.

    It is the same on every machine and in every version of Python.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def python_generator(seed: int, *names: object) -> random.Random:
    """Return a generator for the stream `names`, for code without torch, such as selection."""
    return random.Random(derive(seed, *names))
