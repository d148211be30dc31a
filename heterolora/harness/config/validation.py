"""Validate a whole configuration, finding all problems at once."""

import difflib
import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, NewType, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from heterolora.errors import ConfigError, printable, shown
from heterolora.harness.config import plugins
from heterolora.harness.config.schema import Config
from heterolora.harness.config.values import PATTERNS

Rule = Callable[..., Iterable[str]]
"""A check across sections, which yields problems. The types of its parameters determine the
sections that it reads; it is applied if these are valid by themselves. A parameter of type
`Sections` gets all that are valid."""

Sections = NewType("Sections", Mapping[str, Any])
"""The sections that are valid by themselves, by their keys."""

DEPENDED_ON = (
    *("task", "method", "strategy", "proxy", "selection", "importance", "tracking"),
    *("model", "search_space", "rank_budget", "training", "engine", "device"),
)
"""The keys that a rule about `Sections` reads. An optimizer's is not among them, as the class of
one that is chosen by its path imports torch; it is there if it was changed, or all are checked."""


def validate(raw: Mapping[str, Any], rules: Sequence[Rule]) -> Config:
    """Check a composed configuration as a whole, and type it.

    Args:
        raw: the configuration as plain, resolved values.
        rules: checks across sections, made in addition to those of the schema.

    Returns:
        The typed configuration. With a strategy that never searches, `proxy` and `selection` are
        None.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    sections, problems = _sections(raw, Config.model_fields)
    for rule in rules:
        problems.extend(_asked(rule, sections))
    if problems:
        raise ConfigError(problems)
    if not sections["strategy"].build().searches:
        sections |= dict.fromkeys(SEARCHED)
    return Config.model_construct(**sections)


def problems_of_changes(
    raw: Mapping[str, Any], rules: Sequence[Rule], changed: Collection[str]
) -> list[str]:
    """Return the problems with a configuration that was valid before the keys `changed` were set.

    Only these keys are checked, by the schema and by the rules that read them; so other sections,
    and the libraries that their checks need, may not be read at all.

    Args:
        raw: as for `validate`.
        rules: as for `validate`.
        changed: keys of `Config`.
    """
    asked = [rule for rule in rules if not reads(rule).isdisjoint(changed)]
    read = {*changed, *(key for rule in asked for key in reads(rule))}
    sections, problems = _sections(raw, read)
    return problems + [problem for rule in asked for problem in _asked(rule, sections)]


def _sections(raw: Mapping[str, Any], keys: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the sections `keys` that are valid by themselves, and the problems with the others."""
    problems = [_unknown(key, Config.model_fields) for key in raw if key not in Config.model_fields]
    sections: dict[str, Any] = {}
    for key, field in Config.model_fields.items():
        if key not in keys:
            continue
        if key in SEARCHED and raw.get(key) is None:
            sections[key] = None  # a rule decides whether that is allowed
            continue
        if key not in raw and not field.is_required():
            sections[key] = field.default
            continue
        if raw.get(key) is None and field.is_required():
            problems.append(f"{key}: is missing; choose one with {key}=...")
            continue
        try:
            sections[key] = _typed(key, raw[key])
        except ConfigError as error:
            problems.extend(error.problems)
    if "method" in sections and not sections["method"].build().allocates:
        # Other methods have nothing to search, whatever the strategy.
        sections["strategy"] = _plugin("strategy", "strategy", {"name": NEVER, "enable_rate": 1})
    return sections, problems


def _asked(rule: Rule, sections: Mapping[str, Any]) -> Iterable[str]:
    """Yield the problems that a rule finds; none if a section that it reads is invalid."""
    wanted = bound(rule)
    valid = {**sections, ALL: Sections(sections)}
    if set(wanted.values()) <= valid.keys():
        yield from rule(**{name: valid[key] for name, key in wanted.items()})


NEVER = "homogeneous"
"""The strategy that makes no search."""

ALL = "*"
"""Stands for all sections that are valid."""

SEARCHED = ("proxy", "selection")
"""Sections that only a search reads."""


@functools.cache
def bound(rule: Rule) -> Mapping[str, str]:
    """Map each parameter of a rule to the key of the section that has its type."""
    keys = {Sections: ALL, **{hint: key for key, hint in get_type_hints(Config).items()}}
    wanted = get_type_hints(rule)
    del wanted["return"]
    return {name: keys[hint] for name, hint in wanted.items()}


def reads(rule: Rule) -> frozenset[str]:
    """Return the keys of the sections that a rule reads."""
    keys = frozenset(bound(rule).values())
    return keys - {ALL} | frozenset(DEPENDED_ON) if ALL in keys else keys


def _typed(key: str, value: Any) -> Any:
    """Return the value of a key of `Config`, typed by its schema."""
    if key in NAMED and isinstance(value, Mapping):
        problems: list[str] = []
        made: dict[str, Any] = {}
        for name, section in value.items():
            try:
                made[name] = NAMED[key](key, str(name), section)
            except ConfigError as error:
                problems.extend(error.problems)
        if problems:
            raise ConfigError(problems)
        return made
    if key in plugins.GROUPS and key not in NAMED:
        return _plugin(key, key, value)
    if Config.model_fields[key].exclude:
        return value  # for readers of the file, not for a run
    return _checked(key, _of_key(key), value)


@functools.cache
def _of_key(key: str) -> Any:
    """Return the type of a key of `Config`, with its bounds."""
    field = Config.model_fields[key]
    return Annotated[field.annotation, field]


def _plugin(key: str, group: str, value: Any) -> Any:
    """Return the section of the class that `value` names."""
    chosen = plugins.GROUPS[group]
    name = value.get(chosen.tag, chosen.default) if isinstance(value, Mapping) else value
    schema = plugins.find(group, str(name))
    if schema is None:
        known = ", ".join(plugins.choices(group))
        remedy = (
            f"do not set {key}.name; choose one of {known} with {key}=..."
            if chosen.tag == "name"
            else f"choose one of {known}"
        )
        given = printable(shown(name))
        raise ConfigError([f"{key}.{chosen.tag}={given}: there is no such {group}; {remedy}"])
    return _checked(key, schema, value)


def _proxy(key: str, name: str, value: Any) -> Any:
    """Return the section of a proxy under a name chosen by the user."""
    return _plugin(f"{key}.{name}", "proxy", value)


def _tracker(key: str, name: str, value: Any) -> Any:
    """Return the section of the tracker called `name`."""
    known = plugins.trackers()
    if name in known and isinstance(value, Mapping):
        return _checked(f"{key}.{name}", known[name], value)
    if name in known:
        remedy = f"choose it with {key}={name}, or leave it out with {key}=local"
        given = printable(shown(value))
        raise ConfigError([f"{key}.{name}={given}: must be a mapping of settings; {remedy}"])
    homes = [f"{key}.{other}.{name}" for other in known if name in known[other].model_fields]
    remedy = f"did you mean {' or '.join(homes)}?" if homes else suggestion(name, known)
    raise ConfigError([f"{key}.{name}: unknown key; {remedy}"])


NAMED: Mapping[str, Callable[[str, str, Any], Any]] = {"importance": _proxy, "tracking": _tracker}
"""Keys of `Config` that hold any number of sections by name, and the functions that type these."""


_adapter = functools.cache(TypeAdapter)


def _checked(key: str, schema: Any, value: Any) -> Any:
    try:
        return _adapter(schema).validate_python(value)
    except ValidationError as error:
        raise ConfigError(list(_problems(key, schema, error))) from error


def suggestion(key: str, known: Iterable[str]) -> str:
    """Say what to write instead of the unknown `key`: the closest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"


def _unknown(key: str, fields: Iterable[str], prefix: str = "") -> str:
    return f"{prefix}{printable(key)}: unknown key; {suggestion(key, fields)}"


def _problems(section: str, schema: Any, error: ValidationError) -> Iterable[str]:
    """Yield a line for each key that pydantic rejects: the key, its value, the rule, a remedy."""
    fields = _fields(section, schema)
    said: set[str] = set()
    for detail in error.errors():
        path = [str(part) for part in detail["loc"]]
        leaf = ".".join([section, *path[:1]])
        if leaf in said:
            continue
        said.add(leaf)
        if detail["type"] == "extra_forbidden":
            yield _unknown(path[0], fields, prefix=f"{section}.")
            continue
        own = isinstance(detail["input"], Mapping) and not path
        if detail["type"] == "value_error" and own:  # from a class that checks its own fields
            yield _whole(f"{section}.{detail['msg'].removeprefix('Value error, ')}", fields)
            continue
        field = fields.get(path[0]) if path else Config.model_fields[section]
        examples = field.examples if field else None
        example = shown(examples[0]) if examples else "..."
        remedy = f"{'for example' if examples else 'set it with'} {leaf}={example}"
        if detail["type"] == "missing":
            yield f"{leaf}: is missing; {remedy}"
            continue
        given = printable(shown(detail["input"]))
        yield f"{'.'.join([section, *path])}={given}: {_rule(detail)}; {remedy}"


IN_WORDS = {
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "string_type": "must be text",
    "float_type": "must be a number",
    "string_too_short": "must not be empty",
}
"""Plain wording for rules that pydantic describes in terms of Python."""


def _rule(detail: Any) -> str:
    """Return the rule that a value breaks."""
    if detail["type"] == "string_pattern_mismatch":
        return PATTERNS[detail["ctx"]["pattern"]]
    said = detail["msg"].removeprefix("Value error, ")
    return IN_WORDS.get(detail["type"]) or re.sub(r"^\w+ should ", "must ", said)


def _whole(line: str, fields: Mapping[str, FieldInfo]) -> str:
    """Complete the line of a class's own check with a remedy, if it has none."""
    key = re.split("[=:]", line, maxsplit=1)[0]
    field = fields.get(key.rpartition(".")[2])
    if "; " in line or field is None or not field.examples:
        return line
    return f"{line}; for example {key}={shown(field.examples[0])}"


def _fields(section: str, schema: Any) -> Mapping[str, FieldInfo]:
    """Return the fields of a section's model; empty if the section is a plain value."""
    if not hasattr(schema, "model_fields"):
        schema = Config.model_fields[section].annotation
    return getattr(schema, "model_fields", {})
