"""Every key of the schema with every kind of wrong value: it is used, or told in one line.

The cases are generated from the schema, some five thousand. A part of them that a seed draws is
tried by default, and all of them under the mark `slow`, which also has what is accepted trained
with. With the keys that plug-ins share, tried for each of them, they are `exhaustive`.
"""

import contextlib
import copy
import functools
import inspect
import io
import itertools
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CONF, CommandLine, case_name, composed
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from heterolora.errors import UserError
from heterolora.harness.cli.run.compose import options
from heterolora.harness.config import Config, identity, plugins
from heterolora.harness.loggers.progress import Display, Screen
from heterolora.harness.runs import execute as experiment
from heterolora.harness.runs.build import build_budget, build_space
from heterolora.harness.runs.outcome import directory_of
from heterolora.harness.runs.prepare import prepare

SEED = 16
FEW = 150
"""Cases of the default suite, some four seconds."""

VALUES: Mapping[str, Any] = {
    "null": None,
    "empty": "",
    "text": "abc",
    "empty list": [],
    "list": [1],
    "list of null": ["x", None],
    "empty mapping": {},
    "mapping": {"a": 1},
    "true": True,
    "zero": 0,
    "one": 1,
    "negative": -1,
    "half": 0.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "1e308": 1e308,
    "1e-320": 1e-320,
    "largest float": 3e38,
    "10^30": 10**30,
    "2^31": 2**31 - 1,
    "300 characters": "x" * 300,
    "non-Latin": "данные 数据",
    "climbs": "../../x",
    "null byte": "a\0b",
    "line break": "a\nb",
}

LONGEST = 700
"""Characters of a line."""
JARGON = re.compile(
    r"Traceback|pydantic|NoneType|tuple|dictionary|instance of|<class|Input should|match pattern"
)
SHAPE = re.compile(r"[^:;]*?(=.*)?: .+; .+")


@dataclass(frozen=True)
class Case:
    """A value at a key of a configuration that is sound without it."""

    base: str
    path: tuple[str, ...]
    kind: str

    @property
    def key(self) -> str:
        return ".".join(self.path)


def inside(node: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What a nested mapping has at a path."""
    return functools.reduce(lambda found, name: found[name], path, node)


def replaced(node: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with another value at a path."""
    made = dict(node)
    made[path[0]] = replaced(made[path[0]], path[1:], value) if path[1:] else value
    return made


def paths(node: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Of every key, section or value."""
    for name, value in node.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from paths(value, (*before, name))


NEEDS: Mapping[str, Mapping[str, Any]] = {
    "task=multiple_choice": {"task.metrics": ["accuracy"], "task.sentences": ["{choice}"]},
    "task=prompted": {"task.sentences": ["{sentence1}"]},
    "task=grouped": {"task.sentences": ["{sentence1}"]},
    "selection=waterfill": {"proxy": {"name": "gradsvd", "num_batches": 2, "batch_size": 8}},
}
"""What a plug-in does not go without, beside its own examples."""


def chosen(base: dict[str, Any], group: str, name: str) -> dict[str, Any]:
    """The base with another plug-in of a group, its settings from the class that has them."""
    schema, tag = plugins.find(group, name), plugins.GROUPS[group].tag
    assert schema is not None
    settings: dict[str, Any] = {}
    for field, info in schema.model_fields.items():
        if not info.is_required():
            value = info.default
        elif tag is not None and field in base[group]:
            value = base[group][field]
        else:
            value = (info.examples or [None])[0]
            value = yaml.safe_load(value) if isinstance(value, str) else value
        settings[field] = list(value) if isinstance(value, tuple) else value
    if tag is None:
        return {**base, group: {name: settings}}
    made = {**base, group: {**settings, tag: name}}
    for key, value in NEEDS.get(f"{group}={name}", {}).items():
        made = replaced(made, key.split("."), value)
    return made


@functools.cache
def bases() -> Mapping[str, dict[str, Any]]:
    """The default configuration, and one for every plug-in of every group."""
    found: Any = OmegaConf.to_container(composed("device=cpu", "tracking=local"), resolve=True)
    named = {
        f"{group}={name}": chosen(found, group, name)
        for group in plugins.GROUPS
        for name in (plugins.trackers() if group == "tracking" else plugins.choices(group))
    }
    return {"default": found, **named}


@functools.cache
def cases(everything: bool = False) -> Sequence[Case]:
    """Every key of the default configuration, and of the others what they have beside it.

    Everything: of the others all keys of the group of their plug-in, also those that it shares.
    """
    found = []
    seen: set[tuple[str, ...]] = set()
    for base, raw in bases().items():
        group = base.partition("=")[0]
        keys = [*(paths(raw) if base == "default" else paths(raw[group], (group,)))]
        if not everything:
            told = {key: declared(raw, key) for key in keys}
            keys = [key for key in keys if told[key] not in seen]
            seen.update(told.values())
        found += [Case(base, key, kind) for key in keys for kind in VALUES]
    return found


def declared(raw: Mapping[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
    """A key, with the class that declares it where it is one of a plug-in."""
    at = 2 if path[0] == "tracking" else 1
    if path[0] not in plugins.GROUPS or len(path) <= at:
        return path
    group, section = plugins.GROUPS[path[0]], raw[path[0]]
    name = path[1] if group.tag is None else section.get(group.tag, group.default)
    schema = plugins.find(path[0], name)
    assert schema is not None
    owners = [one for one in schema.__mro__ if path[at] in inspect.get_annotations(one)]
    return (owners[-1].__qualname__ if owners else "", *path)


def few(count: int) -> Sequence[Case]:
    """A part of them that the seed draws."""
    return random.Random(SEED).sample(cases(), count)


@functools.cache
def base_of(name: str) -> DictConfig:
    """As Hydra gives it, made once: each case changes it for a while."""
    return OmegaConf.create(bases()[name])


@contextlib.contextmanager
def changed(cfg: DictConfig, path: Sequence[str], value: Any) -> Iterator[DictConfig]:
    """With another value at a path; afterwards with that of before."""
    node = inside(cfg, path[:-1])
    before = node[path[-1]]
    node[path[-1]] = copy.deepcopy(value)
    try:
        yield cfg
    finally:
        node[path[-1]] = before


def check_line(line: str) -> None:
    """Key, rule, value and remedy, in words and in one line that can be read."""
    assert SHAPE.fullmatch(line), line
    assert not JARGON.search(line), line
    assert len(line) <= LONGEST, line


def tried(cfg: DictConfig, keys: Sequence[str]) -> Config | None:
    """The configuration if it is accepted, and every object of it can be made; else None.

    The refusal names one of the keys, or for a section that depends on others its own name.
    """
    try:
        config = prepare(cfg)
        assert len(directory_of(config, identity(config)).name) < 256
    except UserError as error:
        lines = str(error).split("\n")
        for line in lines:
            check_line(line)
        sections = {key.split(".")[0] for key in keys}
        assert all(any(section in line for line in lines) for section in sections), (keys, lines)
        return None
    for section in (config.task, config.method, config.strategy, config.optimizer):
        section.build()
    for optional in (config.proxy, config.selection, *config.importance.values()):
        if optional is not None:
            optional.build()
    build_space(config)
    assert build_budget(config) > 0
    for epoch in range(2):
        steps = config.strategy.build().search_steps(epoch, 8, 16)
        assert all(0 <= step < 8 for step in steps)
    return config


def count(some: Sequence[Case]) -> Counter[str]:
    """How many were accepted, and how many refused."""
    counts: Counter[str] = Counter()
    for case in some:
        try:
            with changed(base_of(case.base), case.path, VALUES[case.kind]) as cfg:
                accepted = tried(cfg, [case.key])
        except Exception as error:
            error.add_note(f"{case}")
            raise
        counts["accepted" if accepted else "refused"] += 1
    return counts


def test_every_base_is_sound() -> None:
    unsound = {name for name in bases() if tried(base_of(name), ["task"]) is None}
    # An optimizer and a task that need what is not there.
    assert unsound <= {"optimizer=torch"}


def test_a_value_is_used_or_refused_in_a_line(record_property: Any) -> None:
    counts = count(few(FEW))
    record_property("counts", dict(counts))
    assert sum(counts.values()) == FEW


@pytest.mark.parametrize(
    "everything",
    [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.exhaustive)],
)
def test_every_value_of_every_key(everything: bool, capsys: pytest.CaptureFixture[str]) -> None:
    counts = count(cases(everything))
    with capsys.disabled():
        sys.stderr.write(f"\n{sum(counts.values())} values of keys: {dict(counts)}\n")


ARMS = [
    *([], ["strategy=static"], ["strategy=pruning", "rank_budget=r8"], ["strategy=warmup"]),
    *(["proxy=constant"], ["proxy=sensitivity"], ["proxy=eva"], ["proxy=fisher"], ["proxy=gora"]),
    *(["proxy=gradsvd", "selection=waterfill"], ["proxy=synflow"], ["proxy=spaced", "+every=2"]),
    *(["selection=proportional"], ["optimizer=sgd"], ["scheduler=linear"], ["method=adalora"]),
    *(["method=eva"], ["method=houlsby"], ["method=full"], ["method=dora"]),
    *(["tracking=[csv,figures]"], ["tracking=tensorboard"], ["search_space=lora_shortcuts"]),
]
NOT_TRAINED = ("model", "output", "offline", "rerun", "engine", "task.path", "training.compile")
"""Keys of which a value costs minutes, asks the hub or says nothing here."""


def trained(arm: list[str], tiny: list[str]) -> dict[str, Any]:
    """A run of two steps."""
    few = [one for one in tiny if not (one.startswith("proxy.") and "spaced" in "".join(arm))]
    few = [one for one in few if not (one.startswith("proxy.") and "proxy=constant" in arm)]
    chosen = [one.replace("+every", "proxy.every") for one in arm]
    short = ["training.epochs=1", "training.max_steps=2"]
    raw: Any = OmegaConf.to_container(composed(*few, *short, *chosen), resolve=True)
    return raw


@pytest.mark.parametrize(
    "everything",
    [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.exhaustive)],
)
@pytest.mark.parametrize("arm", ARMS, ids=[case_name(",".join(arm)) or "default" for arm in ARMS])
def test_what_is_accepted_trains(
    arm: list[str], everything: bool, tiny: list[str], tmp_path: Path
) -> None:
    """To its end, or it ends in one line, such as for a loss that is not finite.

    Every key of the default run, and what an arm changes of it or adds.
    """
    default, base = trained([], tiny), trained(arm, tiny)
    groups = {one.partition("=")[0] for one in arm}
    keys = [path for path in paths(base) if not arm or (path[0] in groups and len(path) > 1)]
    if arm and not everything:
        same = {declared(default, path): inside(default, path) for path in paths(default)}
        keys = [path for path in keys if same.get(declared(base, path), "") != inside(base, path)]
        assert keys
    said: list[str] = []
    keys = [path for path in paths(base) if not arm or (path[0] in groups and len(path) > 1)]
    cfg = OmegaConf.create(base)
    for number, (path, kind) in enumerate(itertools.product(keys, VALUES)):
        if path[0] in NOT_TRAINED or ".".join(path) in NOT_TRAINED:
            continue
        cfg.output = str(tmp_path / str(number))
        with changed(cfg, path, VALUES[kind]):
            if tried(cfg, [".".join(path)]) is None:
                continue
            try:
                outcome = experiment.run(cfg, Screen(Display(Console(file=io.StringIO()))))
                assert outcome.result.status == "finished"
            except UserError as error:  # with what PEFT or W&B say of their own settings
                said.append(str(error))
            except Exception as error:
                error.add_note(f"{path} {kind}")
                raise
    assert all(re.fullmatch(r"[^\n]+; [^\n]+", line) for line in said), said


@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_combinations(data: st.DataObject) -> None:
    """Two or three at once, each of which is told of."""
    base = bases()["default"]
    keys = st.sampled_from([path for path in paths(base) if len(path) <= 2])
    some = data.draw(st.lists(keys, min_size=2, max_size=3, unique=True))
    raw = base
    for path in sorted(some, key=len):
        if isinstance(inside(base, path[:-1]), dict) and (len(path) == 1 or path[:1] not in some):
            raw = replaced(raw, path, VALUES[data.draw(st.sampled_from(sorted(VALUES)))])
    try:
        config = prepare(OmegaConf.create(copy.deepcopy(raw)))
    except UserError as error:
        for line in str(error).split("\n"):
            check_line(line)
    else:
        build_space(config)


GROUPS = [
    str(path.relative_to(CONF))
    for path in sorted(CONF.rglob("*"))
    if path.is_dir() and path.name not in ("hydra", "base")
]
MEMBERS = ("nope", "", "null", "5", "0.5", "true", "{}", "{a:1}", "[]", "[a,b]", "../x")


def refused(done: Any, key: str) -> None:
    """Lines that name the key, exit code 2, and nothing else."""
    assert done.code == 2, done
    lines = done.err.splitlines()
    assert lines
    for line in lines:
        assert line.startswith(f"error: {key}="), line
        check_line(line.removeprefix("error: "))
    assert "Traceback" not in done.out


def members() -> list[tuple[str, str]]:
    return list(itertools.product(GROUPS, MEMBERS))


@pytest.mark.parametrize(("group", "member"), random.Random(SEED).sample(members(), 3))
def test_a_member_that_a_group_does_not_have(
    group: str,
    member: str,
    command_line: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (group, member) == ("tracking", "[]"):
        pytest.skip("none of several")
    monkeypatch.chdir(tmp_path)
    refused(command_line(f"{group}={member}"), group)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("-m",)])
@pytest.mark.parametrize("group", GROUPS)
def test_every_member_of_every_group(
    group: str,
    sweep: tuple[str, ...],
    command_line: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert options(group)
    monkeypatch.chdir(tmp_path)
    for member in MEMBERS:
        if (group, member) != ("tracking", "[]"):
            refused(command_line(*sweep, f"{group}={member}"), group)
    assert list(tmp_path.iterdir()) == []


COMMANDS = [
    (["--foo"], "--foo"),
    (["-x"], "-x"),
    (["--cfg", "foo"], "--cfg"),
    (["--config-name", "nope"], "--config-name"),
    (["--resolve"], "--resolve"),
    (["foo"], "foo"),
    (["=3"], "=3"),
    (["seed=[1"], "seed=[1"),
    (["seed=\n"], "seed=\\n"),
    (["seed=${nope}"], "seed"),
    (["+proxy@importance.a=nope"], "proxy@importance.a=nope"),
    (["-m", "runs_per_job=0"], "runs_per_job=0"),
    (["-m", "runs_per_job=a"], "runs_per_job=a"),
    (["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0"),
    (["-m", "seed=range(0)"], "seed=range(0)"),
    (["-m", "hydra.sweep.dir=/proc/x"], "hydra.sweep.dir=/proc/x"),
    (["task.metrics=[accuracy,accuracy]"], "task.metrics=[accuracy,accuracy]"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), COMMANDS, ids=[case_name(said) for _, said in COMMANDS]
)
def test_a_command_that_cannot_be(
    arguments: list[str],
    said: str,
    command_line: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command_line(*arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    check_line(line.removeprefix("error: "))
    assert not any(tmp_path.rglob("config.yaml"))


def test_overrides_may_stand_on_both_sides_of_an_option(
    command_line: CommandLine, tiny: list[str]
) -> None:
    done = command_line("training.epochs=1", "-m", *tiny[:-2], "seed=1", "training.max_steps=1")
    assert done.code == 0, done.err
    assert "1 run: 1 finished" in done.out
