"""Settings of whatever a configuration can choose: proxies, strategies, tasks, trackers and others.

Such a class is a frozen dataclass whose settings are fields made by `setting`, so that a single
declaration serves the constructor, its checks, and the schema and help that a configuration
derives from it. Any other field is internal.

The command line describes and checks all of them, and importing torch takes longer than that. So a
module that defines such a class takes `torch` and `F` from here, where they are imported when they
are first used, and imports under `TYPE_CHECKING` whatever it needs for annotations alone.
"""

import functools
import importlib
import importlib.util
import inspect
import math
import pkgutil
import pydoc
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib.metadata import EntryPoint, entry_points
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from heterolora.errors import PluginError, Problem, one_line
from heterolora.sites import Site

if TYPE_CHECKING:
    import torch as torch

    F = torch.nn.functional
else:

    class _Late:
        """A module that is imported with its first attribute."""

        def __init__(self, module: str) -> None:
            self._module = module

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module(self._module), name)

    torch = _Late("torch")
    F = _Late("torch.nn.functional")


def setting(
    default: Any = MISSING,
    *,
    help: str,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    example: Any = None,
) -> Any:
    """Define a field of a `Settings` class.

    Args:
        default: the default value; without one, the setting is required.
        help: a description in a few words.
        gt: the value must be greater than this.
        ge: the value must be at least this.
        lt: the value must be less than this.
        le: the value must be at most this.
        example: a valid value for error messages; the default value if None.
    """
    bounds = {"gt": gt, "ge": ge, "lt": lt, "le": le}
    metadata = {
        "help": help,
        "example": default if example is None and default is not MISSING else example,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Situation:
    """What a choice may ask about all else that was chosen.

    What is not known has its default, of which no choice complains: the model, for example, is not
    known before Transformers is imported.

    Attributes:
        task: what the model is trained to do.
        method: which parameters are trained.
        strategy: when scores are taken, to search; None if they are taken before training, for no
            search.
        proxy: what scores the sites.
        selection: what turns the scores into ranks.
        engine: `local` for one process; `distributed` for several, each with the model; `sharded`
            for several, each with a part of it.
        compile: whether training steps are compiled.
        projections: the roles of linear layers in the search space.
        shortcuts: the roles of shortcuts in the search space.
        exclude: the names of sites that are left out.
        model: the name of the model, or its folder.
        dtype: how the weights of the model are stored: `fp32` or `bf16`.
        quantization: the quantization of these weights, `8bit` or `4bit`; None if there is none.
        family: the family of the model.
        config: the content of the model's `config.json`.
        device: the device on which to train.
        unit_costs: the parameters in one rank, by site.
        budget_ranks: the budget's rank, by site.
        capacities: the largest number of ranks that can be on, by site.
        pools: which sites share which budget.
    """

    task: Any = None
    method: Any = None
    strategy: Any = None
    proxy: Any = None
    selection: Any = None
    engine: str = "local"
    compile: bool = False
    projections: Sequence[str] = ()
    shortcuts: Sequence[str] = ()
    exclude: Sequence[str] = ()
    model: str = ""
    dtype: str = "fp32"
    quantization: str | None = None
    family: Any = None
    config: Any = None
    device: "torch.device | None" = None
    unit_costs: Mapping[Site, int] = field(default_factory=dict)
    budget_ranks: Mapping[Site, float] = field(default_factory=dict)
    capacities: Mapping[Site, int] = field(default_factory=dict)
    pools: Sequence[Any] = ()


_hints: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)
"""Returns the types of the fields of a class."""


@dataclass(frozen=True)
class Settings:
    """A frozen dataclass that checks its own fields.

    Raises:
        ValueError: if a value is outside its bounds or choices.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for one in fields(self):
            value = getattr(self, one.name)
            hint = hints[one.name]
            if get_origin(hint) is Literal and value not in get_args(hint):
                choices = ", ".join(map(repr, get_args(hint)))
                raise ValueError(f"{one.name}={value!r}: must be one of {choices}")
            for rule, bound in one.metadata.get("bounds", {}).items():
                if value is not None and not _HOLDS[rule](value, bound):
                    raise ValueError(f"{one.name}={value!r}: must be {_WORDS[rule]} {bound}")

    @property
    def name(self) -> str:
        """The name by which a configuration chooses the class: that of its file.

        A class in a notebook has no file; `MyProxy` is called `my_proxy`.
        """
        if type(self).__module__ == "__main__":
            return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()
        return type(self).__module__.rpartition(".")[2]

    def problems(self, situation: Situation) -> Iterable[Problem]:
        """Return why this cannot be used in a situation, or its settings together."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        """Return name and settings as plain values."""
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in settable(type(self))}


def class_in(package: str, name: str, kind: Any = Settings) -> Any:
    """Return the concrete class of `kind` that a package has under a name; None if there is none.

    It is either the class defined in the package's file `name`, or the class that another installed
    package gives in its entry point `name`, in the group of the package.

    Raises:
        PluginError: if an entry point does not give such a class.
    """
    if not re.fullmatch(r"(?!base$)[a-z][a-z0-9_]*", name):  # base: shared by the others
        return None
    if importlib.util.find_spec(f"{package}.{name}") is not None:
        return _defined(f"{package}.{name}", kind)
    entry = added(package).get(name)
    return None if entry is None else _named(entry, kind)


def names_in(package: str, kind: Any = Settings) -> list[str]:
    """Return the names for which `class_in` finds a class."""
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    own = [one.name for one in modules if class_in(package, one.name, kind)]
    return sorted([*own, *added(package)])


def added(package: str) -> Mapping[str, EntryPoint]:
    """Return the entry points with which other installed packages add to `package`, by name.

    Raises:
        PluginError: if a name is already taken.
    """
    entries: dict[str, EntryPoint] = {}
    for entry in installed().select(group=group_of(package)):
        taken = importlib.util.find_spec(f"{package}.{entry.name}") is not None
        if taken or entries.get(entry.name, entry) != entry:
            raise PluginError(_problem(entry, "this name is already taken; rename one of the two"))
        entries[entry.name] = entry
    return entries


def group_of(package: str) -> str:
    """Return the entry point group of a package: its name, in which `harness` is left out.

    Others have to know what a package adds to, not in which half of this one that is.
    """
    return package.replace(".harness.", ".")


@functools.cache
def installed() -> Any:  # its type differs before Python 3.12
    """Return the entry points of all installed packages."""
    return entry_points()


def added_by() -> dict[str, str]:
    """Return the versions of the installed packages that add to this one, by name."""
    groups = [group for group in installed().groups if group.startswith(f"{__package__}.")]
    entries = [entry for group in groups for entry in installed().select(group=group)]
    return {entry.dist.name: entry.dist.version for entry in entries if entry.dist is not None}


def _defined(module_name: str, kind: Any) -> Any:
    """Return the first concrete class of `kind` that a module defines; None if there is none."""
    for member in vars(importlib.import_module(module_name)).values():
        if _is_concrete(member, kind) and member.__module__ == module_name:
            return member
    return None


def _named(entry: EntryPoint, kind: Any) -> Any:
    try:
        found = entry.load()
    except Exception as error:  # whatever the other package raises
        raise PluginError(
            _problem(entry, f"cannot be imported ({one_line(error)}); repair or uninstall it")
        ) from error
    if not _is_concrete(found, kind):
        raise PluginError(
            _problem(entry, "must name a class of that kind, with all its methods; correct it")
        )
    if (module := found.__module__.rpartition(".")[2]) != entry.name:
        raise PluginError(
            _problem(entry, f"must have the name of the file that defines the class, {module}")
        )
    return found


def _is_concrete(member: Any, kind: Any) -> bool:
    return inspect.isclass(member) and issubclass(member, kind) and not inspect.isabstract(member)


def _problem(entry: EntryPoint, rule: str) -> str:
    package = "" if entry.dist is None else f" of {entry.dist.name}"
    return f"entry point {entry.name} = {entry.value}{package}, in the group {entry.group}: {rule}"


def class_at(path: object) -> type | None:
    """Return the class at a dotted path such as `torch.optim.SGD`; None if there is none."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", str(path)):
        return None
    try:
        found = pydoc.locate(str(path))
    except pydoc.ErrorDuringImport:
        return None
    return found if isinstance(found, type) else None


def settable(kind: type[Settings]) -> list["Field[Any]"]:
    """Return the fields that `setting` made; any others, such as state, are internal."""
    return [one for one in fields(kind) if "help" in one.metadata]


_HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda value, bound: value > bound and not math.isinf(value),
    "ge": lambda value, bound: value >= bound and not math.isinf(value),
    "lt": lambda value, bound: value < bound,
    "le": lambda value, bound: value <= bound,
}
_WORDS = {
    "gt": "greater than",
    "ge": "at least",
    "lt": "less than",
    "le": "at most",
}


@runtime_checkable
class Stateful(Protocol):
    """An object whose state changes from step to step.

    A state is a mapping with string keys, whose values are tensors, JSON values, or such mappings.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the current state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""


def stateful(parts: Mapping[str, object]) -> dict[str, Stateful]:
    """Return those of `parts` that have state."""
    return {name: part for name, part in parts.items() if isinstance(part, Stateful)}
