"""Zero-cost proxies: one score for every site. Each lives in the file of its name."""

from heterolora.config import PluginConfig
from heterolora.plugins import find_plugin
from heterolora.proxies.base import Proxy, Subject


def find(name: str) -> type[PluginConfig] | None:
    """The proxy of `heterolora/proxies/<name>.py`, or None."""
    return find_plugin(__name__, Proxy, name)


__all__ = ["Proxy", "Subject", "find"]
