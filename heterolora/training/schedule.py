"""How the learning rate goes up and down."""

import math
from collections.abc import Callable

import torch
from transformers import get_scheduler

Schedule = Callable[[int], float]
"""From a step, counted from 0, to the factor of the learning rate in it."""

KINDS = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
"""What Transformers calls them."""


def make_schedule(name: str, warmup: float, total: int) -> Schedule:
    """A schedule of Transformers, by its name there.

    With T steps in all and w = ceil(warmup T), the factor at step t is t / w for t < w, and then

        constant   1
        linear     (T - t) / (T - w)
        cosine     (1 + cos(pi (t - w) / (T - w))) / 2

    Args:
        name: `constant`, `linear` or `cosine`.
        warmup: the share of all steps in which the rate rises from 0.
        total: optimizer steps in all.
    """
    unused = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))])
    made = get_scheduler(KINDS[name], unused, math.ceil(warmup * total), total)
    factor: Schedule = made.lr_lambdas[0]
    return factor
