"""Classes of the package that a configuration names: one file, one class, one name."""

import importlib
import importlib.util
import inspect
import re

from heterolora.config import PluginConfig


def find_plugin(package: str, base: type[PluginConfig], name: str) -> type[PluginConfig] | None:
    """The subclass of `base` that `package/name.py` defines, or None where there is none."""
    module_name = f"{package}.{name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or importlib.util.find_spec(module_name) is None:
        return None
    module = importlib.import_module(module_name)
    for member in vars(module).values():
        if (
            inspect.isclass(member)
            and issubclass(member, base)
            and not inspect.isabstract(member)
            and member.__module__ == module_name
        ):
            return member
    return None
