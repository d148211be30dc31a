"""Sections that are derived from the classes of the library."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeGuard

import pytest
from conftest import ROOT, CommandLine, case_name
from pydantic import ValidationError

from heterolora.allocation import Waterfill
from heterolora.errors import ConfigError, PluginError
from heterolora.harness.config import PluginConfig, checkpoints, plugins, validate
from heterolora.harness.config.plugins import GROUPS, KINDS, Group, choices, find, section
from heterolora.harness.records.load import load
from heterolora.proxies import GradNorm, SynFlow, needs
from heterolora.settings import Settings, Situation, added, class_in, installed, setting


@dataclass(frozen=True)
class Dummy(Settings):
    """What a dummy does."""

    count: int = setting(help="how many", gt=0, example=3)
    share: float = setting(0.25, help="how much", gt=0, le=1)
    mode: Literal["fast", "slow"] = setting("fast", help="how")
    columns: tuple[str, ...] = setting(("a", "b"), help="which")
    label: str | None = setting(None, help="whose")
    limit: int | None = setting(None, help="how far", ge=2)
    verbose: bool = setting(False, help="whether it says so")
    seen: list[int] = field(default_factory=list)
    """State, which no configuration has."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count == 13:
            raise ValueError("count=13: must be a lucky number; for example count=7")


@pytest.fixture
def dummies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A group of one file, and its section."""
    (tmp_path / "dummies").mkdir()
    (tmp_path / "dummies" / "__init__.py").write_text("")
    (tmp_path / "dummies" / "dummy.py").write_text("from test_plugins import Dummy as Other\n")
    (tmp_path / "dummies" / "own.py").write_text(
        "from dataclasses import dataclass\nfrom heterolora.settings import Settings, setting\n"
        "@dataclass(frozen=True)\nclass Own(Settings):\n"
        "    size: int = setting(1, help='how big', ge=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(GROUPS, "dummy", Group("dummies", DummyConfig))
    yield "dummy"
    for name in [name for name in sys.modules if name.partition(".")[0] == "dummies"]:
        del sys.modules[name]


class DummyConfig(PluginConfig):
    """What dummies share."""

    name: str


@pytest.fixture(scope="module")
def kind() -> Iterator[type[PluginConfig]]:
    """The section of `Dummy`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(GROUPS, "test", Group("tests", DummyConfig))
        yield section(Dummy, "test", "dummy")


def test_a_section_has_the_fields_of_its_class(kind: type[PluginConfig]) -> None:
    made = kind(name="dummy", count=2)
    assert made.model_dump(mode="json") == {
        "name": "dummy",
        "count": 2,
        "share": 0.25,
        "mode": "fast",
        "columns": ["a", "b"],
        "label": None,
        "limit": None,
        "verbose": False,
    }
    fields = kind.model_fields
    assert fields["share"].description == "how much"
    assert fields["count"].examples == [3]
    assert fields["share"].examples == [0.25]
    assert fields["count"].is_required()
    assert kind.__doc__ == "What a dummy does."


def test_a_section_builds_its_object(kind: type[PluginConfig]) -> None:
    made = kind(name="dummy", count=2, columns=["x"], mode="slow", limit=5)
    assert made.build() == Dummy(count=2, columns=("x",), mode="slow", limit=5)
    assert kind.model_validate(made.model_dump(mode="json")) == made


def test_a_section_does_not_change(kind: type[PluginConfig]) -> None:
    made = kind(name="dummy", count=2)
    with pytest.raises(ValidationError, match="frozen"):
        made.count = 3  # type: ignore[attr-defined]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "other"}, "name"),
    ({"count": 0}, "count"),
    ({"count": True}, "count"),
    ({"count": 1.5}, "count"),
    ({"count": "1"}, "count"),
    ({"share": True}, "share"),
    ({"share": float("nan")}, "share"),
    ({"share": 1.5}, "share"),
    ({"mode": "medium"}, "mode"),
    ({"columns": "ab"}, "columns"),
    ({"columns": [1]}, "columns"),
    ({"limit": 1}, "limit"),
    ({"limit": True}, "limit"),
    ({"verbose": 1}, "verbose"),
    ({"more": 1}, "more"),
]


@pytest.mark.parametrize(("change", "where"), WRONG, ids=[case_name(change) for change, _ in WRONG])
def test_a_section_refuses_what_its_class_would(
    kind: type[PluginConfig], change: dict[str, Any], where: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        kind(**{"name": "dummy", "count": 2, **change})
    assert raised.value.errors()[0]["loc"][0] == where


def test_a_class_has_checks_of_its_own(kind: type[PluginConfig]) -> None:
    with pytest.raises(ValidationError, match="count=13: must be a lucky number"):
        kind(name="dummy", count=13)


def test_a_name_is_that_of_the_file_with_the_class(dummies: str) -> None:
    own = find(dummies, "own")
    assert own is not None
    assert own(name="own").model_dump() == {"name": "own", "size": 1}
    assert own(name="own", size=3).build().size == 3
    assert find(dummies, "own") is own
    assert find(dummies, "dummy") is None  # it has a class of another file
    assert choices(dummies) == ["own"]


@pytest.mark.parametrize("name", ["nope", "..own", "__init__", "own.x", "", "Own"])
def test_what_is_no_name_of_a_file(name: str, dummies: str) -> None:
    assert find(dummies, name) is None
    assert class_in("dummies", name, KINDS) is None


@pytest.mark.parametrize("group", ["proxy", "selection", "strategy"])
def test_every_yaml_of_a_group_is_a_choice(group: str) -> None:
    folder = Path(__file__).parents[1] / "conf" / group
    own = {*choices(group)} - {*added(GROUPS[group].package)}
    assert own == {file.stem for file in folder.glob("*.yaml")}
    assert plugins.find(group, "base") is None


def test_a_group_may_have_another_tag_than_its_name(
    dummies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task has a name of its own; its kind says which class it is, if it is said."""
    monkeypatch.setitem(GROUPS, "task", Group("dummies", DummyConfig, "kind", "own"))
    own = find("task", "own")
    assert own is not None
    section = own(name="mine", size=2)
    assert section.model_dump() == {"name": "mine", "size": 2, "kind": "own"}
    assert section.build().size == 2
    with pytest.raises(ConfigError) as raised:
        validate({"task": {"name": "mine", "kind": "nope"}}, ())
    assert "task.kind=nope: there is no such task; choose one of own" in raised.value.problems
    with pytest.raises(ConfigError) as raised:
        validate({"task": {"name": "mine", "size": 0}}, ())
    wrong = "task.size=0: must be greater than or equal to 1; for example task.size=1"
    assert wrong in raised.value.problems


MINE = """
from dataclasses import dataclass

from heterolora.proxies.gradnorm import GradNorm
from heterolora.settings import setting


@dataclass(frozen=True)
class Mine(GradNorm):
    "A norm to a power."

    power: float = setting(0.5, help="the exponent", gt=0)

    def scores(self, *given, **more):
        return {site: s**self.power for site, s in super().scores(*given, **more).items()}


class Other:
    pass
"""


def package(folder: Path, *entries: str) -> Path:
    """A package of the user's that is installed in `folder`, with some entry points."""
    (folder / "my_scores").mkdir()
    (folder / "my_scores" / "mine.py").write_text(MINE)
    (folder / "my_scores" / "broken.py").write_text("import nothing_of_this_name\n")
    info = folder / "my_scores-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-scores\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("\n".join(["[heterolora.proxies]", *entries, ""]))
    return folder


@pytest.fixture
def another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Install a package that adds proxies."""

    def install(*entries: str) -> None:
        monkeypatch.syspath_prepend(package(tmp_path, *entries))
        installed.cache_clear()

    yield install
    installed.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_scores"]:
        del sys.modules[name]


def test_an_installed_package_adds_a_proxy(another_package: Callable[..., None]) -> None:
    another_package("mine = my_scores.mine:Mine")
    assert "mine" in choices("proxy")
    found = find("proxy", "mine")
    assert found is not None
    assert found(name="mine").build().power == 0.5
    with pytest.raises(ValidationError, match="greater than 0"):
        found(name="mine", power=-1)
    (offered,) = plugins.offered()
    assert offered[:2] == ("proxy", "mine")
    assert offered[2].items() >= {"name": "mine", "power": 0.5, "num_batches": 32}.items()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("gradnorm = my_scores.mine:Mine", "this name is already taken"),
        ("mine = my_scores.mine:Other", "must name a class of that kind"),
        (
            "yours = my_scores.mine:Mine",
            "must have the name of the file that defines the class, mine",
        ),
        ("broken = my_scores.broken:Mine", "cannot be imported .No module named 'nothing_of"),
        ("mine = my_scores.mine:Nothing", "cannot be imported "),
    ],
)
def test_what_a_package_adds_wrongly(
    entry: str, said: str, another_package: Callable[..., None]
) -> None:
    another_package(entry)
    with pytest.raises(PluginError, match=said) as raised:
        list(plugins.offered())
    assert str(raised.value).startswith(
        f"entry point {entry} of my-scores, in the group heterolora.p"
    )
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_run_and_the_contract_of_an_added_proxy(tmp_path: Path, tiny: list[str]) -> None:
    folder = package(tmp_path, "mine = my_scores.mine:Mine")
    env = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}

    def made(*command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True
        )

    done = made("train.py", *tiny, "proxy=mine", "proxy.power=2", "strategy=static")
    assert done.returncode == 0, done.stderr
    output = Path(dict(one.split("=", 1) for one in tiny)["output"])
    ((run,), _) = load(output)
    assert run.setting("proxy.power") == 2
    assert run.provenance.packages["my-scores"] == "1.5"
    assert "mine" in made("scripts/report.py", str(output), "--table", "2").stdout
    assert (
        "proxy=mint: there is no such proxy; did you mean mine?"
        in made("train.py", "proxy=mint").stderr
    )
    tests = ["tests/test_proxies.py", "tests/test_allocation.py", "tests/test_strategies.py"]
    contract = made("-m", "pytest", "-p", "no:cacheprovider", "-k", "mine", *tests)
    assert contract.returncode == 0, contract.stdout
    assert "passed" in contract.stdout


NEEDY = {
    "by_label.py": """
from dataclasses import dataclass
from heterolora.proxies import Proxy

@dataclass(frozen=True)
class ByLabel(Proxy):
    "Scores by the loss, as a proxy does unless it says otherwise."

    def scores(self, adapters, *more):
        return dict.fromkeys(adapters, 1.0)
""",
    "wide.py": """
from dataclasses import dataclass
from heterolora.proxies import Constant, needs

@dataclass(frozen=True)
class Wide(Constant):
    "Computes in float64."

    def problems(self, situation):
        yield from super().problems(situation)
        yield from needs.float64(self.name, situation.device)
""",
    "by_gain.py": """
from dataclasses import dataclass
from heterolora.errors import Problem
from heterolora.allocation import Top

@dataclass(frozen=True)
class ByGain(Top):
    "Reads the gain of each rank."

    def problems(self, situation):
        yield from super().problems(situation)
        if situation.proxy is not None and not situation.proxy.has_gains:
            rule = f"needs gains, which `proxy={situation.proxy.name}` does not give"
            yield Problem("selection", self.name, rule, "choose `proxy=eva`, or set `floor=1`")
""",
}
ENTRIES = """
[heterolora.proxies]
by_label = needy.by_label:ByLabel
wide = needy.wide:Wide
[heterolora.allocation.selection]
by_gain = needy.by_gain:ByGain
"""


@pytest.fixture
def needy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package whose proxies and selection have needs of their own."""
    (tmp_path / "needy").mkdir()
    for file, text in NEEDY.items():
        (tmp_path / "needy" / file).write_text(text)
    info = tmp_path / "needy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: needy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    yield
    installed.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "needy"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            ["proxy=by_label", "task.label=null"],
            "proxy=by_label: scores by the loss, which needs labels, but the data of task=rte has "
            "none; choose proxy=eva or proxy=constant, or name the column with task.label=COLUMN",
        ),
        (
            ["proxy=wide"],
            "proxy=wide: computes in float64, which device=cpu does not support; use device=cpu "
            "or another proxy",
        ),
        (
            ["strategy=homogeneous", "+proxy@importance.mine=wide"],
            "importance.mine.name=wide: computes in float64, which device=cpu does not support; "
            "use device=cpu or another proxy",
        ),
        (
            ["selection=by_gain"],
            "selection=by_gain: needs gains, which proxy=gradnorm does not give; choose proxy=eva, "
            "or set selection.floor=1",
        ),
    ],
    ids=["labels", "float64", "importance", "gains"],
)
@pytest.mark.usefixtures("needy")
def test_a_need_that_only_its_class_knows_is_told_before_weights_load(
    changes: list[str],
    line: str,
    tiny: list[str],
    command_line: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Would catch a rule that knows the choices of this package by name, and no others."""
    monkeypatch.setattr(needs, "has_float64", lambda device: False)
    monkeypatch.setattr(checkpoints, "load", lambda *given: pytest.fail("weights were loaded"))
    rest = [one for one in tiny if not one.startswith("proxy.")]
    done = command_line(*rest, *changes)
    assert done.code == 2
    (said,) = [one for one in done.err.splitlines() if not one.startswith("error: task.label=null")]
    assert said == f"error: {line}"


def test_a_need_in_the_words_of_the_library() -> None:
    """Would catch keys of the command line in what a notebook shows."""
    (problem,) = Waterfill().problems(Situation(proxy=GradNorm()))
    assert str(problem) == (
        "selection=waterfill: needs the gain of each rank, but the proxy gradnorm scores whole "
        "sites; choose the proxy gradsvd or the proxy eva, or the selection proportional"
    )
    copa = SimpleNamespace(has_labels=True, compares_inputs=True)
    (problem,) = SynFlow().problems(Situation(task=copa))
    assert str(problem).startswith("objective=loss: has no gradient")
    assert str(problem).endswith("; set objective=output")


def test_a_class_of_a_notebook_has_the_name_of_the_class() -> None:
    """Would catch records in which every proxy that was written in a notebook is `__main__`."""
    mine = dataclass(frozen=True)(type("MyGradNorm2", (GradNorm,), {"__module__": "__main__"}))
    assert mine().name == "my_grad_norm2"
    assert mine().to_dict()["name"] == "my_grad_norm2"


def test_no_rule_knows_a_choice_by_its_name() -> None:
    """Would catch a need that is written beside the rules, and not in the class that has it."""
    groups = GROUPS.keys() - {"tracking"}
    names = {*plugins.trackers(), *(name for group in groups for name in choices(group))}
    for file in (ROOT / "heterolora/harness/config/rules").glob("*.py"):
        found = {node.value for node in ast.walk(ast.parse(file.read_text())) if is_text(node)}
        assert not found & names, file


def is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
