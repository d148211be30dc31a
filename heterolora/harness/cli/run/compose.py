"""Composing the configuration of this project with Hydra."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from heterolora.harness.paths import CONF
from heterolora.settings import added_by

HYDRA_VERSION = "1.3"


@contextmanager
def composing() -> Iterator[None]:
    """While it is open, `hydra.compose` composes the configuration of this project.

    Raises:
        PluginError: if a plug-in of another installed package cannot be used.
    """
    offer_plugins()
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        yield


def offer_plugins() -> None:
    """Register with Hydra what other installed packages add to the groups of this project.

    Raises:
        PluginError: if one cannot be used.
    """
    Plugins.instance()  # imports those of Hydra
    # Where Hydra's own plug-in of this name is installed, it would be the schema of joblib.yaml.
    ConfigStore.instance().repo["hydra"]["launcher"].pop("joblib.yaml", None)
    if not added_by():
        return
    from heterolora.harness.config import plugins  # late, for it imports these packages

    for group, name, values in plugins.offered():
        ConfigStore.instance().store(group=group, name=name, node=values)


def is_group(key: str) -> bool:
    """Return whether a key is the name of a group of options."""
    return bool(key) and (CONF / key).is_dir()


def options(group: str) -> list[str]:
    """Return the options of a group; none if there is no such group."""
    files = (file.relative_to(CONF / group) for file in (CONF / group).rglob("*.yaml"))
    names = [str(file.with_suffix("")) for file in files if file.parts[0] != "base"]
    offered = ConfigStore.instance().repo.get(group, {}) if names else {}
    return sorted({*names, *(name.removesuffix(".yaml") for name in offered)})
