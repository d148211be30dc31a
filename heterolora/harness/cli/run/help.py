"""The help of a run: every group with its options, every key with its value and its rule."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from heterolora.errors import shown
from heterolora.harness.cli.run.compose import composing, options
from heterolora.harness.config import Config, plugins

USAGE = """\
Allocate, fine-tune and evaluate.

  python train.py KEY=VALUE ... GROUP=OPTION ...        one run
  python train.py -m KEY=VALUE,VALUE ... GROUP=A,B ...  a sweep: one run per combination
  python train.py KEY=VALUE ... --help                  this help, showing these values
  heterolora KEY=VALUE ...                              the same as python train.py

  -m, --multirun    run a sweep
  --cfg job         print the configuration and stop
  --hydra-help      show Hydra's own options

A key shown with a + is not in the YAML file of the option: write +KEY=VALUE to set it.
"""

OTHER_GROUPS = {
    "experiment": "-m +experiment=NAME: all runs of a table or a study",
    "hydra/launcher": "-m hydra/launcher=NAME: how to launch the runs of a sweep",
}
"""Groups that are not a section of the configuration."""


def show(overrides: Sequence[str], console: Console, commands: Mapping[str, str]) -> None:
    """Print the help of a run, and the list of the other commands.

    Args:
        overrides: the help shows the values that these give.
        console: where it is printed.
        commands: what each command does, by its name.

    Raises:
        HydraException: if they cannot be composed.
    """
    with composing():
        cfg = compose("config", [*overrides], return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    values = _values(cfg)
    console.print(Text(USAGE))
    console.print(Text("other commands", style="bold"))
    rows = [(f"heterolora {name} ...", "", what) for name, what in commands.items()]
    console.print(Padding(_grid(rows), (0, 0, 1, 2)))
    for heading, kind, found in _sections(values, choices):
        console.print(heading)
        if kind is not None and (keys := [*_keys(kind, found)]):
            console.print(Padding(_grid(keys), (0, 0, 0, 2)))
        console.print()
    for group, what in OTHER_GROUPS.items():
        console.print(Text(what, style="bold"))
        console.print(Padding(Text(" ".join(options(group))), (0, 0, 1, 2)))


def _values(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values, with interpolations resolved."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    values: Any = OmegaConf.to_container(own, resolve=True)
    return dict(values)


def _sections(
    values: Mapping[str, Any], choices: Mapping[str, str]
) -> Iterator[tuple[RenderableType, type[BaseModel] | None, Mapping[str, Any]]]:
    """Yield the heading, the class and the values of each section."""
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    yield Text("run", style="bold"), Config, plain
    for name in Config.model_fields:
        value = values.get(name)
        if name == "tracking":
            yield _heading(name, None, choices.get(name)), None, {}
            for tracker, settings in (value or {}).items():
                found = plugins.find(name, tracker)
                section = f"tracking.{tracker}"
                yield Text(section), found, _with_defaults(section, found, settings)
        elif isinstance(value, dict) and name not in ("importance", "table"):
            kind = _class(name, value)
            yield _heading(name, kind, choices.get(name)), kind, _with_defaults(name, kind, value)


def _class(name: str, value: Mapping[str, Any]) -> type[BaseModel]:
    """Return the class of a section."""
    if name not in plugins.GROUPS:
        found: type[BaseModel] = Config.model_fields[name].annotation  # type: ignore[assignment]
        return found
    group = plugins.GROUPS[name]
    assert group.tag is not None
    section = plugins.find(name, value.get(group.tag, group.default))
    assert section is not None  # of an option of this project
    return section


def _heading(name: str, kind: type[BaseModel] | None, choice: str | None) -> RenderableType:
    """Return the name of a section with its choice, its options, and what it is."""
    line = Text(name if choice is None else f"{name}={choice}", style="bold")
    if choice is not None:
        line.append(f"\n{' | '.join(options(name))}", style="not bold")
    if kind is not None and kind.__doc__:
        line.append(f"\n{kind.__doc__.strip().splitlines()[0]}", style="not bold italic")
    return line


def _with_defaults(
    section: str, kind: type[BaseModel] | None, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the given values, then the defaults of other keys, which Hydra wants a plus for."""
    known = kind.model_json_schema()["properties"] if kind is not None else {}
    given = {f"{section}.{key}": value for key, value in values.items()}
    return given | {
        f"+{section}.{key}": found["default"]
        for key, found in known.items()
        if "default" in found and key not in values
    }


def _keys(kind: type[BaseModel], values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the key, the value, and the description with its rule, of each described value."""
    known = kind.model_json_schema()
    for key, value in values.items():
        described = known["properties"].get(key.rpartition(".")[2])
        if described is not None and "const" not in described:
            what = str(described.get("description", "")).removesuffix(".")
            rule = allowed(described, known.get("$defs", {}))
            line = f"{what[:1].upper()}{what[1:]}" + (f" [{rule}]" if rule else "")
            yield key, shown(value), line


BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
NUMBERS = {"integer": "whole number", "number": "number"}


def allowed(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return what a JSON schema allows, in words; empty if that is any text."""
    if "$ref" in described:
        described = definitions[described["$ref"].rpartition("/")[2]]
    if "anyOf" in described:
        parts = [allowed(part, definitions) or "text" for part in described["anyOf"]]
        return " or ".join(dict.fromkeys(parts))
    if "enum" in described:
        return " | ".join(map(str, described["enum"]))
    kind = described.get("type")
    if kind == "null":
        return "null"
    if kind == "boolean":
        return "true | false"
    if kind == "array":
        inner = allowed(described.get("items", {}), definitions)
        return f"list of {inner}" if inner else "list"
    if kind in NUMBERS:
        bounds = [f"{BOUNDS[name]} {described[name]:g}" for name in BOUNDS if name in described]
        return " ".join([NUMBERS[kind], ", ".join(bounds)]).strip()
    return ""


def _grid(rows: Sequence[tuple[str, str, str]]) -> Table:
    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=28)
    table.add_column()
    for row in rows:
        table.add_row(*map(Text, row))
    return table
