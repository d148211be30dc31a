"""What tells one arm from another: everything that shapes a run's numbers, the seed apart."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from heterolora.config.schema import Config

EVERY = "*"
"""Stands for each key of a mapping."""

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
"""Settings that two runs of one arm may differ in: the seed, and what shapes no number, or no more
of it than another machine would."""

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
"""Settings that there were not from the beginning, with what stands for runs from before: at that
value they are left out, so that those runs are found again. Here it stays, should a default change.
"""

ADDED_LATER_TO: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("selection", "top"): {"floor": 0},
}
"""The same, of the one member of a section."""

BY_FINGERPRINT: Mapping[str, Any] = {
    "model": dict.fromkeys(("name", "path", "revision"), True),
    "task": dict.fromkeys(
        ("source", "subset", "path", "revision", "planting", "train_split", "validation_split"),
        True,
    ),
}
"""Settings that say where model and data are; what they are is in their fingerprints."""


def without(values: Mapping[str, Any], apart: Mapping[str, Any]) -> dict[str, Any]:
    """Nested plain values, but for those that `apart` marks with True, and what that empties."""
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
    """Nested plain values, but for those that are as `defaults` has them."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            nested = changed(value, defaults.get(key, defaults.get(EVERY, {})))
            if nested or not value:  # a section without a setting was there before
                kept[key] = nested
        elif key not in defaults or value != defaults[key]:
            kept[key] = value
    return kept


def shaping_settings(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Of a resolved configuration the settings that shape a run's numbers.

    The seed and the place of model and data are not among them, nor what was added later and is as
    it was before.
    """
    shaping = without(without(resolved, NOT_IN_IDENTITY), BY_FINGERPRINT)
    added = dict(ADDED_LATER)
    for (section, name), settings in ADDED_LATER_TO.items():
        if (shaping.get(section) or {}).get("name") == name:
            added[section] = {**added.get(section, {}), **settings}
    return changed(shaping, added)


def identity(config: Config) -> str:
    """Eight hex digits of the settings that shape the run's numbers, and of its model and data.

    Raises:
        UserError: if the model or the data cannot be found.
    """
    # Fingerprints need libraries that who reads records does without.
    from heterolora.config.fingerprints import fingerprints, split_fingerprint

    shaping = shaping_settings(config.resolved())
    shaping["fingerprints"] = dataclasses.asdict(fingerprints(config.model, config.task))
    if config.evaluation.test is not None:
        shaping["fingerprints"]["test"] = split_fingerprint(config.task, config.evaluation.test)
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:8]
