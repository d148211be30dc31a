"""Doing without a network."""

import os

from huggingface_hub import constants

PREFETCH = (
    "fill the cache on a machine with internet access (run `python scripts/prefetch.py` with the "
    "arguments of this command) and point HF_HOME at it"
)
"""The remedy for what the cache of the hub does not hold."""


def stay_offline() -> None:
    """Have neither this process nor those that it starts use the network from now on."""
    # huggingface_hub reads its variable when it is imported; ever after it asks this constant, and
    # so do transformers, and datasets, which is imported later. W&B reads its own when a run
    # begins; a mode that is given to wandb.init alone leaves its telemetry on.
    constants.HF_HUB_OFFLINE = True
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
