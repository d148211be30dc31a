"""The identity of an arm: everything that determines a run's numbers, except the seed."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from heterolora.harness.config.schema import Config

EVERY = "*"
"""Stands for every key of a mapping."""

NOT_IN_IDENTITY: Mapping[str, Any] = {
    "seed": True,
    "name": True,
    "device": True,
    "engine": True,
    "output": True,
    "rerun": True,
    "offline": True,
    "runs_per_job": True,
    "checkpoint": True,
    "tracking": True,
    "table": True,
    "training": {"log_every": True, "compile": True},
    "evaluation": {"batch_size": True},
    "proxy": {"micro_batch_size": True},
    "importance": {EVERY: {"micro_batch_size": True}},
}
"""Settings in which two runs of one arm may differ: the seed, and what affects no number, or
affects numbers no more than another machine would."""

_SAMPLED = {"source": "probe", "observe_every": 16}

ADDED_LATER: Mapping[str, Any] = {
    "model": {"dtype": "fp32", "attn_implementation": None, "quantization": None},
    "method": {"name": "heterolora", "kind": "heterolora"},
    "optimizer": {"kind": "adamw"},
    "scheduler": {"name": "constant", "warmup": 0.0},
    "training": {
        "limit_examples": None,
        "micro_batch_size": None,
        "max_steps": None,
        "patience": None,
        "max_grad_norm": None,
        "gradient_checkpointing": False,
        "group_by_length": False,
        "tf32": False,
    },
    "task": {"held_out": None, "packing": False},
    "search_space": {"exclude": []},
    "evaluation": {"test": None},
    "proxy": _SAMPLED,
    "importance": {EVERY: _SAMPLED},
    "selection": {"normalize": "none"},
}
"""Settings that were added later, with the values that earlier runs imply: at these values they are
left out, so that earlier runs keep their identity. The values stay even if a default changes.
"""

ADDED_LATER_TO: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("selection", "top"): {"floor": 0},
}
"""The same, for only one choice of a section."""

BY_FINGERPRINT: Mapping[str, Any] = {
    "model": dict.fromkeys(("name", "path", "revision"), True),
    "task": dict.fromkeys(
        ("source", "subset", "path", "revision", "planting", "train_split", "validation_split"),
        True,
    ),
}
"""Settings that locate model and data; fingerprints represent their content."""


def without(values: Mapping[str, Any], apart: Mapping[str, Any]) -> dict[str, Any]:
    """Drop from nested plain values what `apart` marks with True, and what that leaves empty."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        here = apart.get(key, apart.get(EVERY, {}))
        if here is True:
            continue
        left = without(value, here) if isinstance(value, Mapping) else value
        if left != {} or value == {}:
            kept[key] = left
    return kept


def changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Drop from nested plain values those that equal `defaults`."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            nested = changed(value, defaults.get(key, defaults.get(EVERY, {})))
            if nested or not value:  # a section without settings was there before
                kept[key] = nested
        elif key not in defaults or value != defaults[key]:
            kept[key] = value
    return kept


def shaping_settings(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a resolved configuration that determine a run's numbers.

    The seed and the location of model and data are not included, nor are settings that were added
    later and have the value that earlier runs imply.
    """
    shaping = without(without(resolved, NOT_IN_IDENTITY), BY_FINGERPRINT)
    added = dict(ADDED_LATER)
    for (section, name), settings in ADDED_LATER_TO.items():
        if (shaping.get(section) or {}).get("name") == name:
            added[section] = {**added.get(section, {}), **settings}
    return changed(shaping, added)


def identity(config: Config) -> str:
    """Return eight hex digits of all that determines a run's numbers, including model and data.

    Raises:
        UserError: if the model or the data cannot be found.
    """
    # Fingerprints need libraries that readers of records do not.
    from heterolora.harness.config.fingerprints import fingerprints, split_fingerprint

    shaping = shaping_settings(config.resolved())
    shaping["fingerprints"] = dataclasses.asdict(fingerprints(config.model, config.task))
    if config.evaluation.test is not None:
        shaping["fingerprints"]["test"] = split_fingerprint(config.task, config.evaluation.test)
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:8]
