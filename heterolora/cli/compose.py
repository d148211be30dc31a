"""What Hydra composes, and what is wrong with overrides that it cannot compose, a line each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from heterolora.errors import ConfigError, one_line
from heterolora.locations import CONF
from heterolora.settings import added_by

HYDRA_VERSION = "1.3"
SEVERAL = ("tracking",)
"""Groups of which a list takes several options at once."""


@contextmanager
def composing() -> Iterator[None]:
    """Have `hydra.compose` compose this project's configuration.

    Raises:
        PluginError: for an installed package that adds to it, and cannot be used.
    """
    offer_plugins()
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        yield


def offer_plugins() -> None:
    """Have Hydra know what other installed packages add to the groups of this project.

    Raises:
        PluginError: for one that cannot be used.
    """
    if not added_by():
        return
    from heterolora.config import plugins  # and torch, which --help does without

    for group, name, values in plugins.offered():
        ConfigStore.instance().store(group=group, name=name, node=values)


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse what Hydra would take without a word, and nothing would come of; and what it fails at.

    That is a list where a group takes one choice, of which it would use the last, or where one of
    several is unknown; what names data
    at the hub, beside `task.path`, which says where it is on disk; and null for a group.

    Raises:
        ConfigError: naming every such override.
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
    """Overrides of Hydra's grammar, and a line for each of the others."""
    readable, problems = [], []
    for override in overrides:
        try:
            OverridesParser.create().parse_override(override)
            readable.append(override)
        except HydraException as error:
            key, _, value = override.partition("=")
            problems.append(
                f"{override}: cannot be read ({one_line(error)[:100]}); put quotes around the "
                f"value: '{key}=\"{value}\"'"
            )
    return readable, problems


def _not_one_choice(override: str) -> list[str]:
    parsed = OverridesParser.create().parse_override(override)
    group, _, given = override.lstrip("+").partition("=")
    values = list(parsed.sweep_iterator()) if parsed.is_discrete_sweep() else [parsed.value()]
    if not (CONF / parsed.key_or_group).is_dir() or parsed.is_delete():
        return []
    if group in SEVERAL:
        values = [
            one for value in values for one in (value if isinstance(value, list) else [value])
        ]
        known = options(group)
        wrong = [one for one in values if str(one) not in known]
        return [_no_such(group, "null" if one is None else str(one)) for one in wrong]
    if any(isinstance(value, list) for value in values):
        each = given.replace("[", "").replace("]", "").replace(" ", "")
        return [f"{override}: {group} takes one choice; to run each of them, use -m {group}={each}"]
    return [_no_such(parsed.key_or_group, "null") for value in values if value is None]


def _no_such(group: str, value: str) -> str:
    from heterolora.config import suggestion  # and pydantic, which --help does without

    return f"{group}={value}: there is no such {group}; {suggestion(value, options(group))}"


def options(group: str) -> list[str]:
    """What can be chosen of a group; nothing where it is none."""
    files = (file.relative_to(CONF / group) for file in (CONF / group).rglob("*.yaml"))
    own = [str(file.with_suffix("")) for file in files if file.parts[0] != "base"]
    offered = ConfigStore.instance().repo.get(group, {}) if own else {}
    return sorted({*own, *(name.removesuffix(".yaml") for name in offered)})


def check_command_line(arguments: Sequence[str]) -> None:
    """Refuse overrides that Hydra cannot be given: `check_overrides`, and with them all others.

    Args:
        arguments: of the process, options among them.

    Raises:
        ConfigError: naming every problem.
    """
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    try:
        check_overrides(overrides)
    except ConfigError as error:
        raise ConfigError(composition_problems(error, overrides)) from error


def composition_problems(error: Exception, overrides: Sequence[str]) -> list[str]:
    """Every problem of a composition: of each override alone, then of what the others change.

    The options of a group are sound, so that only keys are checked, and fast: see `changes`.

    Args:
        error: what Hydra raised when it composed them all; returned where nothing better is found.
        overrides: as on the command line.
    """
    from heterolora.config import changes  # and pydantic, which --help does without

    GlobalHydra.instance().clear()
    readable, problems = _readable(overrides)
    sound: list[str] = []
    with composing():
        # What is chosen comes first: it decides which keys there are.
        for override in sorted(readable, key=lambda override: bool(_changed(override))):
            chosen = [option for option in sound if not _changed(option)]
            try:
                check_overrides([override])
                compose("config", [*chosen, override])
                sound.append(override)
            except ConfigError as problem:
                problems += problem.problems
            except (HydraException, OmegaConfBaseException) as problem:
                if "--multirun" not in str(problem):
                    problems.append(_override_problem(override, chosen, problem))
        changed = {key for override in sound for key in _changed(override)}
        try:
            problems += changes(compose("config", sound), changed) if changed else []
        except (ConfigError, HydraException, OmegaConfBaseException) as problem:
            problems += problem.problems if isinstance(problem, ConfigError) else []
    if not problems and "--multirun" in str(error):
        problems = [
            f"{override}: has several values; to run each of them, add -m"
            for override in readable
            if OverridesParser.create().parse_override(override).is_sweep_override()
        ]
    return problems or [one_line(error)]


def _changed(override: str) -> list[str]:
    """The key of `Config` in which an override changes a value; none where it takes an option."""
    parsed = OverridesParser.create().parse_override(override)
    if (CONF / parsed.key_or_group).is_dir() and not parsed.is_delete():
        return []
    return [parsed.key_or_group.split(".")[0]]


def _override_problem(override: str, chosen: Sequence[str], problem: Exception) -> str:
    from heterolora.config import suggestion

    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    known = options(key)
    if known and value not in known:
        return _no_such(key, value)
    if "Could not override" in str(problem):
        known = _dotted(OmegaConf.to_container(compose("config", [*chosen])))
        section = key.split(".")[0]
        known = [one for one in known if one.split(".")[0] == section] or known
        return f"{key}: unknown key; {suggestion(key, known)}"
    return f"{override}: {one_line(problem)[:200]}"


def _dotted(node: Any, prefix: str = "") -> list[str]:
    """Every key of nested dictionaries, as `group.key`."""
    if not isinstance(node, dict):
        return []
    keys = [f"{prefix}{key}" for key in node]
    return keys + [k for key, value in node.items() for k in _dotted(value, f"{prefix}{key}.")]
