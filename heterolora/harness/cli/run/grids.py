"""The runs of a sweep: the overrides and the configuration of each combination of values."""

import itertools
from collections.abc import Iterator, Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from heterolora.errors import ConfigError
from heterolora.harness.cli.run.overrides import check_overrides, composition_problems


def combinations(
    loader: ConfigLoader, sweeper: DictConfig, arguments: Sequence[str]
) -> list[list[str]]:
    """Return the overrides of every run of a sweep, grid after grid.

    An argument replaces a parameter of the same name, and is added to grids that do not have it.

    Args:
        loader: Hydra's.
        sweeper: the settings `params` and `grids` of the sweeper.
        arguments: overrides of the command line.

    Raises:
        ConfigError: if grids or arguments cannot be swept.
    """
    check_overrides(arguments)
    params = sweeper.get("params") or {}
    grids = OmegaConf.create([{}]) if sweeper.get("grids") is None else sweeper.grids
    if not OmegaConf.is_list(grids) or not all(map(OmegaConf.is_dict, grids)):
        raise ConfigError(
            [
                f"hydra.sweeper.grids={grids}: must be a list of mappings from parameters to "
                "values; for example hydra.sweeper.grids=[{seed:'0,13'}]"
            ]
        )
    runs = []
    for grid in grids:
        values = {**params, **grid}
        overrides = [f"{key}={'null' if v is None else v}" for key, v in values.items()]
        check_overrides(overrides)
        runs += _product(loader, [*overrides, *arguments])
    return runs


def _product(loader: ConfigLoader, arguments: list[str]) -> list[list[str]]:
    """Return every combination of the arguments' values."""
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(loader).parse_overrides(arguments):
        key = override.get_key_element()
        if not override.is_sweep_override():
            assert override.input_line is not None
            values[key] = [override.input_line]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            if not values[key]:
                raise ConfigError([f"{override.input_line}: has no values; list them: {key}=1,2,3"])
        else:
            raise ConfigError(
                [f"{override.input_line}: is an infinite sweep; list its values: {key}=1,2,3"]
            )
    return [list(combination) for combination in itertools.product(*values.values())]


def compose_runs(
    loader: ConfigLoader, config: DictConfig, runs: Sequence[Sequence[str]]
) -> Iterator[DictConfig]:
    """Compose the configuration of every run of a sweep, without Hydra's own node.

    Args:
        loader: Hydra's.
        config: the configuration of the sweep as a whole, with Hydra's own node.
        runs: the overrides of each run.

    Raises:
        ConfigError: for the first that cannot be composed.
    """
    for overrides in runs:
        try:
            cfg = loader.load_sweep_config(config, list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(composition_problems(error, overrides)) from error
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg
