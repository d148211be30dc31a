"""The plain values of a YAML file, as OmegaConf reads them, in a twentieth of its time."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML was built with it."""

_SCALARS = get_yaml_loader()
"""OmegaConf's loader: to it `1e-4` is a number."""

_DEEPEST = 100
"""Levels of nesting; OmegaConf itself would reach the limit of Python's stack, in seconds."""


def plain_values(text: str) -> Any:
    """Return `OmegaConf.to_container(OmegaConf.create(text))`: interpolations stay as they are.

    Raises:
        yaml.YAMLError: if it is no YAML, or has a key twice.
        omegaconf.errors.OmegaConfBaseException: if it has an interpolation with a wrong syntax, or
            values that a configuration cannot hold.
        RecursionError: if it is nested more deeply than 100 levels.
    """
    try:
        values = None if "${" in text else _document(yaml.parse(text, Loader=_PARSER))
    except (yaml.YAMLError, _UnusualError):
        values = None
    if values is None or isinstance(values, str):
        # OmegaConf says what is wrong, and knows what is rare.
        return OmegaConf.to_container(OmegaConf.create(text))
    return values


class _UnusualError(Exception):
    """An alias, a tag, or a key that is no text or there twice."""


def _document(events: Iterator[Any]) -> Any:
    """Return the values of the only document."""
    for expected in (yaml.StreamStartEvent, yaml.DocumentStartEvent):
        if not isinstance(next(events), expected):
            raise _UnusualError
    values = _value(next(events), events, 0)
    for expected in (yaml.DocumentEndEvent, yaml.StreamEndEvent):
        if not isinstance(next(events), expected):
            raise _UnusualError
    return values


def _value(event: Any, events: Iterator[Any], depth: int) -> Any:
    """Return the value that begins with an event."""
    if depth > _DEEPEST:
        raise RecursionError(f"nested more deeply than {_DEEPEST} levels")
    if isinstance(event, yaml.AliasEvent) or event.anchor or event.tag:
        raise _UnusualError
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event.value) if event.implicit[0] else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, events, depth + 1))
        return items
    found: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _value(event, events, depth + 1)
        if not isinstance(key, str) or key in found:
            raise _UnusualError
        found[key] = _value(next(events), events, depth + 1)
    return found


@lru_cache(maxsize=4096)
def _scalar(text: str) -> Any:
    """Return what a text without quotes is: a number, a truth value, null or itself."""
    loader = _SCALARS("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, text))
