"""Configuration sections for classes that the library offers by name.

There is one file, one class and one name for each. Such a class is a frozen `Settings` dataclass.
Its section has the same fields, with their types, bounds, defaults and help, and a `name` that can
only be the file's; so the sections of a group are in effect a union discriminated by `name`, each
imported when it is needed.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from heterolora.harness.config.schema import (
    MethodConfig,
    OptimizerConfig,
    PluginConfig,
    ProxyConfig,
    SelectionConfig,
    StrategyConfig,
    TaskConfig,
    TrackerConfig,
)
from heterolora.harness.config.values import Number, Whole
from heterolora.harness.paths import CONF
from heterolora.settings import Settings, added, class_in, names_in, settable


@dataclasses.dataclass(frozen=True)
class Group:
    """A part of the configuration whose schema is a class of the library, chosen by name.

    Attributes:
        package: the package with one file for each choice.
        base: the base class of the sections of all choices.
        tag: the key that names the choice; None if the key of the whole section names it.
        default: the name if the tag is not given.
    """

    package: str
    base: type[PluginConfig]
    tag: str | None = "name"
    default: str | None = None


GROUPS: Mapping[str, Group] = {
    "method": Group("heterolora.methods", MethodConfig, tag="kind", default="heterolora"),
    "proxy": Group("heterolora.proxies", ProxyConfig),
    "selection": Group("heterolora.allocation.selection", SelectionConfig),
    "strategy": Group("heterolora.strategies", StrategyConfig),
    "optimizer": Group(
        "heterolora.training.optimizers", OptimizerConfig, tag="kind", default="adamw"
    ),
    "task": Group("heterolora.tasks", TaskConfig, tag="kind", default="classification"),
    "tracking": Group("heterolora.harness.loggers", TrackerConfig, tag=None),
}


KINDS = Settings | PluginConfig
"""What can describe a choice: a class of the library or, where there is none, a section."""


def find(group: str, name: str) -> type[PluginConfig] | None:
    """Return the section of the class in the group's file `name`; None if there is none."""
    found: type[Any] | None = class_in(GROUPS[group].package, name, KINDS)
    if found is None or issubclass(found, PluginConfig):
        return found
    return section(found, group, name)  # type: ignore[arg-type]  # mypy expects an instance


def choices(group: str) -> list[str]:
    """Return the names of all choices in a group."""
    return names_in(GROUPS[group].package, KINDS)


def offered() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each choice that another installed package adds: its group, name and values.

    The values are the defaults of its class; a field without default has the value `???`, for which
    Hydra asks.

    Raises:
        PluginError: for a package whose class cannot be used.
    """
    for group, described in GROUPS.items():
        for name in added(described.package):
            found = find(group, name)
            assert found is not None
            values = {
                key: "???" if field.is_required() else field.get_default(call_default_factory=True)
                for key, field in found.model_fields.items()
            }
            named = {key: name for key in ("name", described.tag) if key in values}
            yield group, name, {name: values} if described.tag is None else values | named


def trackers() -> dict[str, type[PluginConfig]]:
    """Return the sections of everything that can be chosen under `tracking`, by name."""
    package = GROUPS["tracking"].package
    names = sorted([*(file.stem for file in (CONF / "tracking").glob("*.yaml")), *added(package)])
    sections = {name: find("tracking", name) for name in names}
    return {name: section for name, section in sections.items() if section is not None}


@functools.cache
def section(settings: type[Settings], group: str, name: str) -> type[PluginConfig]:
    """Create the section that describes `settings`.

    Args:
        settings: a frozen dataclass whose fields are made by `setting`.
        group: a key of `GROUPS`.
        name: the only value of the group's tag, if it has one.
    """
    hints = get_type_hints(settings)
    fields: dict[str, Any] = {
        field.name: (strict(hints[field.name]), _described(field)) for field in settable(settings)
    }
    chosen = GROUPS[group]
    if chosen.tag is not None:
        default = ... if chosen.default is None else chosen.default
        fields[chosen.tag] = (Literal[name], Field(default, examples=[name], validate_default=True))
    create: Any = create_model  # mypy's plug-in mistakes the name below for a class
    made: type[PluginConfig] = create(
        f"{settings.__name__}Config",
        __base__=chosen.base,
        __doc__=settings.__doc__,
        __module__=settings.__module__,
        # Each field has its description; pydantic would look for one in the source of all callers.
        __cls_kwargs__={"use_attribute_docstrings": False},
        **fields,
    )
    made.settings = settings
    return made


def strict(hint: Any) -> Any:
    """Return the strict type of a field: `true` is not a number, and 1.5 not an integer."""
    if hint is int:
        return Whole
    if hint is bool:
        return Annotated[bool, Field(strict=True)]
    if hint is float:
        return Number
    if get_origin(hint) in (Union, UnionType):
        parts = tuple(part if part is NoneType else strict(part) for part in get_args(hint))
        return Union[parts]  # noqa: UP007 - of a tuple
    if get_origin(hint) is tuple:
        first, *_ = get_args(hint)
        return tuple[strict(first), ...]  # type: ignore[misc]
    return hint


def _described(field: "dataclasses.Field[Any]") -> FieldInfo:
    """Return the field's default, bounds, help and example, in pydantic's form."""
    default = ... if field.default is dataclasses.MISSING else field.default
    example = field.metadata["example"]
    described: FieldInfo = Field(
        default,
        description=field.metadata["help"],
        examples=None if example is None else [example],
        **field.metadata["bounds"],
    )
    return described
