"""Checking a command line: one line for every override or option that is invalid."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from heterolora.errors import ConfigError, one_line, printable, shown
from heterolora.harness.cli.run.compose import composing, is_group, options

SEVERAL = ("tracking",)
"""Groups of which a list chooses several options at once."""
OF_HYDRA = ("hydra/launcher", "hydra/sweeper")
"""Groups for which Hydra and its plug-ins have options too."""


def check_command_line(arguments: Sequence[str]) -> None:
    """Check the arguments of the process; if `check_overrides` fails, find all other problems too.

    Args:
        arguments: overrides and options.

    Raises:
        ConfigError: with all problems.
    """
    overrides = overrides_of(arguments)
    try:
        check_overrides(overrides)
    except ConfigError as error:
        raise ConfigError(composition_problems(error, overrides)) from error


def check_overrides(overrides: Sequence[str]) -> None:
    """Check overrides for what Hydra accepts silently without effect, and for what it fails at.

    Refused are a list for a group that takes one choice, of which Hydra would use the last; an
    option that a group does not have, such as null; and keys for data on the hub together with
    `task.path`, the place of data on disk.

    Raises:
        ConfigError: with a line for every such override.
    """
    readable, problems = _readable(overrides)
    problems += [line for override in readable for line in _not_one_choice(override)]
    given = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    if given.get("task.path", "null") != "null":
        problems += [
            f"{key}={given[key]}: has no effect when task.path is set; leave one of them out"
            for key in ("task.source", "task.subset")
            if given.get(key, "null") != "null"
        ]
    if problems:
        raise ConfigError(problems)


def _readable(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides that Hydra can parse, and a line for each of the others."""
    readable, problems = [], []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not key.strip("+") or not (equals or key.startswith("~")):
            problems.append(
                f"{printable(override)}: is not of the form KEY=VALUE; for example seed=13 "
                "(--help lists all keys)"
            )
            continue
        try:
            OverridesParser.create().parse_override(override)
            readable.append(override)
        except HydraException as error:
            problems.append(
                f"{printable(override)}: cannot be read ({printable(one_line(error))}); put quotes "
                f"around the value: '{key}=\"{printable(value)}\"'"
            )
    return readable, problems


def _not_one_choice(override: str) -> list[str]:
    """Return what is wrong with the choice of an option; nothing if it is another override."""
    parsed = OverridesParser.create().parse_override(override)
    key = override.lstrip("+").partition("=")[0]
    if not is_group(parsed.key_or_group) or parsed.is_delete():
        return []
    values: list[Any] = (
        list(parsed.sweep_iterator()) if parsed.is_discrete_sweep() else [parsed.value()]
    )
    lists = [value for value in values if isinstance(value, list)]
    if parsed.key_or_group in SEVERAL:
        values = [one for value in values for one in (value if value in lists else [value])]
    elif each := [one for value in lists for one in value]:
        return [
            f"{override}: {key} takes only one choice; to run each of them, use -m "
            f"{key}={','.join(map(str, each))}"
        ]
    wrong = [value for value in values if not _is_option(parsed.key_or_group, value)]
    return [_unknown_option(key, parsed.key_or_group, value) for value in wrong]


def _is_option(group: str, value: Any) -> bool:
    """Return whether a value may name an option; those that Hydra adds, Hydra itself checks."""
    if not isinstance(value, str | QuotedString):
        return False
    name = value if isinstance(value, str) else value.text
    return name in options(group) or "${" in name or (group in OF_HYDRA and name != "")


def _unknown_option(key: str, group: str, value: Any) -> str:
    from heterolora.harness.config import suggestion  # late, for it imports pydantic

    given = printable(shown(value))
    remedy = suggestion(given, options(group))
    return f"{key}={given}: there is no such {group}; {remedy}"


def composition_problems(error: Exception, overrides: Sequence[str]) -> list[str]:
    """Return every problem of a composition: of each override alone, then of the changed keys.

    Only the keys that overrides change are checked, which is fast (see `changes`): the options of
    the groups themselves are valid.

    Args:
        error: what Hydra raised for all of them; returned in a line if no other problem is found.
        overrides: the overrides of the command line.
    """
    from heterolora.harness.config import changes  # late, for it imports pydantic

    GlobalHydra.instance().clear()
    readable, problems = _readable(overrides)
    valid: list[str] = []
    with composing():
        # Options first: they decide which keys there are.
        for override in sorted(readable, key=lambda override: bool(_changed_keys(override))):
            chosen = [option for option in valid if not _changed_keys(option)]
            try:
                check_overrides([override])
                compose("config", [*chosen, override])
                valid.append(override)
            except ConfigError as problem:
                problems += problem.problems
            except (HydraException, OmegaConfBaseException) as problem:
                if "--multirun" not in str(problem):
                    problems.append(_override_problem(override, chosen, problem))
        changed = {key for override in valid for key in _changed_keys(override)}
        try:
            problems += changes(compose("config", valid), changed) if changed else []
        except (ConfigError, HydraException, OmegaConfBaseException) as problem:
            problems += problem.problems if isinstance(problem, ConfigError) else []
    if not problems and "--multirun" in str(error):
        problems = [
            f"{override}: has several values; to run each of them, add -m"
            for override in readable
            if OverridesParser.create().parse_override(override).is_sweep_override()
        ]
    return problems or [one_line(error)]


def _changed_keys(override: str) -> list[str]:
    """Return the key of `Config` whose value an override changes; none if it chooses an option."""
    parsed = OverridesParser.create().parse_override(override)
    if is_group(parsed.key_or_group) and not parsed.is_delete():
        return []
    return [parsed.key_or_group.split(".")[0]]


def _override_problem(override: str, chosen: Sequence[str], problem: Exception) -> str:
    from heterolora.harness.config import suggestion

    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    group = key.partition("@")[0]
    if is_group(group) and value not in options(group):
        return _unknown_option(key, group, value)
    if "Could not override" in str(problem):
        known = _dotted(OmegaConf.to_container(compose("config", [*chosen])))
        section = key.split(".")[0]
        known = [one for one in known if one.split(".")[0] == section] or known
        return f"{key}: unknown key; {suggestion(key, known)}"
    return f"{printable(override)}: {one_line(problem)[:200]}; --help lists all keys"


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that are overrides, not options.

    Raises:
        ConfigError: for an option that a run does not have.
    """
    parser = option_parser()
    args = parser.parse_args(arguments)
    if args.resolve and not args.cfg:
        parser.error("--resolve: has no effect without --cfg job")
    overrides: list[str] = args.overrides
    return overrides


class _OptionParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError([f"{printable(message)}; --help lists the options"])


def option_parser() -> argparse.ArgumentParser:
    """Return a parser of Hydra's options, but for those that choose another configuration file."""
    parser = _OptionParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--run", "-r", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--config-dir", "-cd")
    info = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    parser.add_argument("--info", "-i", nargs="?", choices=info)
    parser.add_argument("overrides", nargs="*")
    return parser


def _dotted(node: Any, prefix: str = "") -> list[str]:
    """Return every key of nested dictionaries, dotted as in `group.key`."""
    if not isinstance(node, dict):
        return []
    keys = [f"{prefix}{key}" for key in node]
    return keys + [k for key, value in node.items() for k in _dotted(value, f"{prefix}{key}.")]
