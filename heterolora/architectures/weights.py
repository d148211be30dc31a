"""Check that a checkpoint has the weights that its model computes with.

transformers draws weights that a checkpoint lacks, ignores those that the model has no place for,
and reads integers as floats; this is wanted only for the weights of a head.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from heterolora.architectures.family import Family, layers_of
from heterolora.errors import ModelError

Report = Mapping[str, Any]
"""The loading info of `from_pretrained`."""

PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
"""File names of weights: transformers reads the first of these patterns that matches any file."""


def weight_files(folder: Path) -> list[Path]:
    """Return the files in a checkpoint's directory that its weights are read from."""
    found = (sorted(folder.glob(pattern)) for pattern in PATTERNS)
    return next(filter(None, found), [])


def drawn(model: PreTrainedModel, report: Report) -> list[nn.Parameter]:
    """Return the parameters that the checkpoint lacked; those tied to others do not count."""
    missing = set(report["missing_keys"])
    return [parameter for name, parameter in model.named_parameters() if name in missing]


def check_weights(
    model: PreTrainedModel, family: Family, report: Report, files: Iterable[Path], where: str
) -> None:
    """Reject a checkpoint that is not the pretrained model that its `config.json` describes.

    Args:
        model: the model, as it was loaded.
        family: the model's family.
        report: the keys that the checkpoint lacked, and those in it that were not expected.
        files: the files with the checkpoint's weights.
        where: what to call the checkpoint in an error.

    Raises:
        ModelError: if it lacks weights outside the head, has weights of layers that the model does
            not have, or has weights that are integers or not finite; it gives their number and the
            first of them.
    """
    optional = tuple(f"{_prefix(model)}{module}." for module in family.optional)
    base = _prefix(model)
    lost = [
        name
        for name in report["missing_keys"]
        if name.startswith(base) and not name.startswith(optional)
    ]
    _refuse(lost, "lacks {} weights of the model", "give a complete pretrained checkpoint", where)
    inside = re.compile(rf"(^|\.){re.escape(family.layers)}\.\d+\.")
    count = len(layers_of(model, family))
    _refuse(
        [name for name in report["unexpected_keys"] if inside.search(name)],
        f"has {{}} weights of layers beyond the {count} of the model",
        "give the config.json that belongs to the weights",
        where,
    )
    remedy = "give a checkpoint whose weights are finite floating-point numbers"
    named = dict(model.named_parameters())
    whole = [key for key in _integers(files) if _is_parameter(key, named)]
    _refuse(whole, "holds {} weights as integers", remedy, where)
    broken = [name for name, parameter in named.items() if not parameter.isfinite().all()]
    _refuse(broken, "holds NaN or infinity in {} weights", remedy, where)


def _prefix(model: PreTrainedModel) -> str:
    """Return the prefix of the names of all parameters in the model without its head."""
    return "" if model.base_model is model else f"{model.base_model_prefix}."


def _refuse(names: list[str], rule: str, remedy: str, where: str) -> None:
    if names:
        raise ModelError(f"{where}: {rule.format(len(names))} (first: {min(names)}); {remedy}")


def _integers(files: Iterable[Path]) -> Iterator[str]:
    """Yield the keys of tensors that are stored as integers."""
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as stored:
                kinds = {key: stored.get_slice(key).get_dtype() for key in stored.keys()}  # noqa: SIM118
            yield from (key for key, kind in kinds.items() if not kind.startswith(("F", "BF")))
        else:
            tensors = torch.load(file, map_location="meta", weights_only=True)
            yield from (key for key, t in tensors.items() if not t.is_floating_point())


def _is_parameter(key: str, named: Iterable[str]) -> bool:
    """Return whether a checkpoint's key names a parameter; either name may have an extra prefix."""
    return any(f".{name}".endswith(f".{key}") or f".{key}".endswith(f".{name}") for name in named)
