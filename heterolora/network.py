"""Doing without a network."""

import functools
import os

from huggingface_hub import constants, get_session

PREFETCH = (
    "fill the cache on a machine with internet access (run `python scripts/prefetch.py` with the "
    "arguments of this command) and point HF_HOME at it"
)
"""The remedy for what the cache of the hub does not hold."""


PATIENCE = 5
"""Seconds in which a hub that is there answers."""


@functools.cache
def try_hub() -> None:
    """Before the hub is first asked for something: where it does not answer, the cache is all.

    Its library would try each request six times, in 23 seconds and twelve warnings, and there are
    many; so it is asked once here, through the same proxies.
    """
    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # of whichever library it is made of
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"


def stay_offline() -> None:
    """Have neither this process nor those that it starts use the network from now on."""
    # huggingface_hub reads its variable when it is imported; ever after it asks this constant, and
    # so do transformers, and datasets, which is imported later. W&B reads its own when a run
    # begins; a mode that is given to wandb.init alone leaves its telemetry on.
    constants.HF_HUB_OFFLINE = True
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
