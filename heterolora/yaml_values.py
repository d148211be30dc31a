"""The plain values of a YAML file, as OmegaConf reads them, in a twentieth of its time."""

import copy
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

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
        values = _Document(yaml.parse(text, Loader=_PARSER)).values()
    except (yaml.YAMLError, _UnusualError):
        values = None
    if values is None or isinstance(values, str):
        # OmegaConf says what is wrong, and knows what is rare.
        return OmegaConf.to_container(OmegaConf.create(text))
    return values


class _UnusualError(Exception):
    """A tag, a key that is no text or there twice, a wrong interpolation, and what is rarer."""


class _Document:
    """The only document of a stream of events."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchored: dict[str, Any] = {}

    def values(self) -> Any:
        self._expect(yaml.StreamStartEvent, yaml.DocumentStartEvent)
        values = self._value(next(self._events), 0)
        self._expect(yaml.DocumentEndEvent, yaml.StreamEndEvent)
        return values

    def _expect(self, *kinds: type) -> None:
        for kind in kinds:
            if not isinstance(next(self._events), kind):
                raise _UnusualError

    def _value(self, event: Any, depth: int) -> Any:
        """Return the value that begins with an event."""
        if depth > _DEEPEST:
            raise RecursionError(f"nested more deeply than {_DEEPEST} levels")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchored:
                raise _UnusualError
            return copy.deepcopy(self._anchored[event.anchor])
        if event.tag or event.anchor in self._anchored:
            raise _UnusualError
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event.value) if event.implicit[0] else event.value
            if "${" in event.value:
                _check_interpolation(event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._items(depth)
        else:
            value = self._pairs(depth)
        if event.anchor:
            self._anchored[event.anchor] = value
        return value

    def _items(self, depth: int) -> list[Any]:
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, depth + 1))
        return items

    def _pairs(self, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] | None = None
        own: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<":
                mapping = self._value(next(self._events), depth + 1)
                if merged is not None or not isinstance(mapping, dict):
                    raise _UnusualError
                merged = mapping
            else:
                key = self._value(event, depth + 1)
                if not isinstance(key, str) or key in own:
                    raise _UnusualError
                own[key] = self._value(next(self._events), depth + 1)
        return {**(merged or {}), **own}


def _check_interpolation(text: str) -> None:
    try:
        OmegaConf.create([text])
    except OmegaConfBaseException as error:
        raise _UnusualError from error


@lru_cache(maxsize=4096)
def _scalar(text: str) -> Any:
    """Return what a text without quotes is: a number, a truth value, null or itself."""
    loader = _SCALARS("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, text))
