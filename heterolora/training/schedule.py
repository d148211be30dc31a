"""Learning rate schedules."""

import math
from collections.abc import Callable

import torch
from transformers import get_scheduler

Schedule = Callable[[int], float]
"""Maps a step, counted from 0, to the factor on the learning rate in that step."""

KINDS = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
"""The names of the schedules in Transformers, by their names here."""


def make_schedule(name: str, warmup: float, total: int) -> Schedule:
    """Return a learning rate schedule of Transformers.

    With T steps in all and w = ceil(warmup T), the factor at step t is t / w for t < w, and then

        constant   1
        linear     (T - t) / (T - w)
        cosine     (1 + cos(pi (t - w) / (T - w))) / 2

    Args:
        name: `constant`, `linear` or `cosine`.
        warmup: the share of all steps over which the learning rate rises from 0.
        total: the total number of optimizer steps.
    """
    unused = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))])
    made = get_scheduler(KINDS[name], unused, math.ceil(warmup * total), total)
    factor: Schedule = made.lr_lambdas[0]
    return factor
