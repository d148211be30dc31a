"""When to search. Each strategy lives in the file of its name."""

from heterolora.config import PluginConfig
from heterolora.plugins import find_plugin
from heterolora.strategies.base import Strategy


def find(name: str) -> type[PluginConfig] | None:
    """The strategy of `heterolora/strategies/<name>.py`, or None."""
    return find_plugin(__name__, Strategy, name)


__all__ = ["Strategy", "find"]
