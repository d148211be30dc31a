"""The plain values of a YAML file, as OmegaConf reads them, in a tenth of its time."""

from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

_LIBYAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's loader on libyaml, where PyYAML was built with it."""

_DEEPEST = 100
"""Levels of nesting. libyaml composes recursively, and overruns the stack of C at some ten
thousand; OmegaConf itself reaches the limit of Python's, in seconds."""


class _Loader(_LIBYAML):  # type: ignore[misc]
    """Resolves scalars as OmegaConf does: `1e-4` is a number, and a date is text."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys are different texts."""
        values: dict[Any, Any] = yaml.SafeLoader.construct_mapping(self, node, deep)
        if len(values) < len(node.value) or not all(isinstance(key, str) for key in values):
            raise yaml.YAMLError("a key that is no text, or there twice")
        return values


def plain_values(text: str) -> Any:
    """Return `OmegaConf.to_container(OmegaConf.create(text))`: interpolations stay as they are.

    Raises:
        yaml.YAMLError: if it is no YAML, or has a key twice.
        omegaconf.errors.OmegaConfBaseException: if it has an interpolation with a wrong syntax, or
            values that a configuration cannot hold.
        RecursionError: if it is nested more deeply than 100 levels.
    """
    values = None
    try:
        if _is_plain(text):
            values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        pass
    if values is None or isinstance(values, str):
        # OmegaConf says what is wrong, and knows what is rare.
        return OmegaConf.to_container(OmegaConf.create(text))
    return values


def _is_plain(text: str) -> bool:
    """Whether a text has no interpolation, tag, anchor or merge.

    Raises:
        yaml.YAMLError: if it is no YAML.
        RecursionError: if it is nested more deeply than 100 levels.
    """
    depth, plain = 0, "${" not in text and "<<" not in text
    for event in yaml.parse(text, Loader=_LIBYAML):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise RecursionError(f"nested more deeply than {_DEEPEST} levels")
        if isinstance(event, yaml.NodeEvent):
            plain &= event.anchor is None and getattr(event, "tag", None) is None
    return plain
