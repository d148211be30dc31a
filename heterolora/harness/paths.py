"""Where configuration groups and experiments are stored."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

INSTALLED = (_PACKAGE / "conf").is_dir()
"""Whether this is an installed wheel, with `conf` inside the package, and not a source tree."""

CONF = (_PACKAGE if INSTALLED else _PACKAGE.parent) / "conf"
"""The folder of `config.yaml`, with a subfolder for each group and one for experiments."""
