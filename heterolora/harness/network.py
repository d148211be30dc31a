"""Working without a network."""

import functools
import os

PREFETCH = (
    "fill the cache on a machine with internet access (run `python scripts/prefetch.py` with the "
    "arguments of this command) and point HF_HOME at it"
)
"""The remedy for what the Hub's cache does not contain."""


PATIENCE = 5
"""Seconds to wait for an answer from the Hub."""


@functools.cache
def try_hub() -> None:
    """Check once whether the Hub answers; if it does not, use only the cache from now on.

    Its library would try each request six times, in 23 seconds and with twelve warnings, and there
    are many requests; so it is asked once here, through the same proxies.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # from whichever HTTP library it uses
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"


def stay_offline() -> None:
    """Keep this process and those that it starts off the network from now on."""
    # huggingface_hub reads its variable when it is imported, and from then on uses this constant,
    # as do transformers and datasets, which is imported later. W&B reads its variable when a run
    # starts; a mode that is given only to wandb.init leaves its telemetry on.
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
