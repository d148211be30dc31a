"""What Hydra composes, and what is wrong with overrides that it cannot compose, a line each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from heterolora.errors import ConfigError, one_line, printable, shown
from heterolora.harness.paths import CONF
from heterolora.settings import added_by

HYDRA_VERSION = "1.3"
SEVERAL = ("tracking",)
"""Groups of which a list takes several options at once."""
OF_HYDRA = ("hydra/launcher", "hydra/sweeper")
"""Groups of which Hydra and its plug-ins have options too."""


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
    from heterolora.harness.config import plugins  # and what these packages import

    for group, name, values in plugins.offered():
        ConfigStore.instance().store(group=group, name=name, node=values)


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse what Hydra would take without a word, and nothing would come of; and what it fails at.

    That is a list where a group takes one choice, of which it would use the last; an option that a
    group does not have, null among them; and what names data at the hub, beside `task.path`, which
    says where it is on disk.

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
    return [_no_such(key, parsed.key_or_group, value) for value in wrong]


def _is_option(group: str, value: Any) -> bool:
    """Whether a value may be the name of an option; those that Hydra brings are its to judge."""
    if not isinstance(value, str | QuotedString):
        return False
    name = value if isinstance(value, str) else value.text
    return name in options(group) or "${" in name or (group in OF_HYDRA and name != "")


def _no_such(key: str, group: str, value: Any) -> str:
    from heterolora.harness.config import suggestion  # and pydantic, which --help does without

    given = printable(shown(value))
    remedy = suggestion(given, options(group))
    return f"{key}={given}: there is no such {group}; {remedy}"


def is_group(key: str) -> bool:
    """Whether a key is that of a group of options."""
    return bool(key) and (CONF / key).is_dir()


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
    overrides = overrides_of(arguments)
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
    from heterolora.harness.config import changes  # and pydantic, which --help does without

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
    if is_group(parsed.key_or_group) and not parsed.is_delete():
        return []
    return [parsed.key_or_group.split(".")[0]]


def _override_problem(override: str, chosen: Sequence[str], problem: Exception) -> str:
    from heterolora.harness.config import suggestion

    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    group = key.partition("@")[0]
    if is_group(group) and value not in options(group):
        return _no_such(key, group, value)
    if "Could not override" in str(problem):
        known = _dotted(OmegaConf.to_container(compose("config", [*chosen])))
        section = key.split(".")[0]
        known = [one for one in known if one.split(".")[0] == section] or known
        return f"{key}: unknown key; {suggestion(key, known)}"
    return f"{printable(override)}: {one_line(problem)[:200]}; --help lists all keys"


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """What is no option of Hydra's among the arguments.

    Raises:
        ConfigError: for an option that it does not have.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError([f"{printable(message)}; --help lists the options"])

    parser.error = refuse  # type: ignore[method-assign]  # of one parser
    asked = parser.parse_args(arguments)
    for option in ("config_name", "config_path", "experimental_rerun", "shell_completion"):
        if getattr(asked, option):
            refuse(f"--{option.replace('_', '-')}: is not an option of train.py")
    if asked.resolve and not asked.cfg:
        refuse("--resolve: has no effect without --cfg job")
    found: list[str] = asked.overrides
    return found


def _dotted(node: Any, prefix: str = "") -> list[str]:
    """Every key of nested dictionaries, as `group.key`."""
    if not isinstance(node, dict):
        return []
    keys = [f"{prefix}{key}" for key in node]
    return keys + [k for key, value in node.items() for k in _dotted(value, f"{prefix}{key}.")]
