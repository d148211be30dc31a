"""Several processes that make one run: as one would, and as one in all that happens to them."""

import functools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import children
import pytest
import torch
import torch.distributed as dist
from children import Command, Fate
from conftest import (
    MODELS,
    ROOT,
    CommandLine,
    composed,
    edited,
    problems,
    sentence_pairs,
    tiny_tokenizer,
    write_parquet,
)
from pyarrow import parquet
from support import load, randomize, space, task
from test_language import ALPACA, TEXTS, language_model
from test_language_runs import PROMPTS
from test_super_glue import rows_of as glue_rows

from heterolora.adapters import Space
from heterolora.architectures import layers_of, wire
from heterolora.harness.cli.commands import predict
from heterolora.harness.records.record import read_rows, read_run
from heterolora.harness.runs.launched import first
from heterolora.losses import CHOICES, CREDITS, GROUPS, LABELS, Batch
from heterolora.tasks import CausalLM, Grouped, Metric, MultipleChoice, Task
from heterolora.tasks.token_labels import TokenLabels
from heterolora.training.engines.distributed import Idle, OwnStream, rows_of, share
from heterolora.training.engines.sharding import shard

EVERY_STEP = "checkpoint.every_minutes=1e-9"
SHORT = [
    *("tracking=local", "device=cpu", "training.epochs=2", "training.batch_size=8"),
    *("training.log_every=1", "training.limit_examples=57", "training.micro_batch_size=3"),
    *("evaluation.batch_size=16", "training.max_grad_norm=1.0", "proxy=gradnorm"),
    *("proxy.num_batches=2", "strategy.searches_per_epoch=4", "optimizer.learning_rate=0.01"),
    *("search_space.projections=[q,v,o,up]", "strategy.enable_rate=0.5"),
]
MEMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with children.server():
        yield


@pytest.fixture(scope="module")
def plain(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny post-norm OPT without dropout."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    shutil.copytree(checkpoints["opt-post-norm"], folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    assert config["dropout"] == 0.1
    file.write_text(json.dumps(config | {"dropout": 0.0, "attention_dropout": 0.0}))
    return folder


@pytest.fixture(scope="module")
def reference(plain: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The run that `command` makes, made by one process."""
    command = command_of(plain, pairs, tmp_path_factory.mktemp("reference") / "one")
    assert command.run() == 0, command.log.read_text()
    return command


@pytest.fixture
def command(plain: Path, pairs: Path, tmp_path: Path) -> Command:
    """A dynamic run of 16 steps, the last of each epoch of one example, in parts of three."""
    return command_of(plain, pairs, tmp_path / "one")


def command_of(
    model: Path | None, data: Path | None, folder: Path, *more: str, task: str = "rte"
) -> Command:
    """Without a model or data, that of the project."""
    folder.mkdir()
    paths = [f"{key}.path={path}" for key, path in (("model", model), ("task", data)) if path]
    return Command(composed(f"task={task}", *paths, *SHORT, *more), folder / "outputs")


def join(rank: int, size: int, port: int, fate: Fate | None) -> None:
    """What torchrun says to a process; and then what is to happen to it."""
    values = (rank, rank, size, "127.0.0.1", port)
    os.environ |= {name: str(value) for name, value in zip(MEMBERS, values, strict=True)}
    if fate is not None:
        fate()


def together(
    command: Command,
    size: int,
    *more: str,
    engine: str = "distributed",
    fates: Mapping[int, Fate] | None = None,
    joining: Callable[[int, int, int, Fate | None], None] = join,
) -> tuple[list[int], list[str]]:
    """The exit code of every process, and what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started, logs = [], []
    for rank in range(size):
        one = Command(command.cfg, command.output)
        fate = functools.partial(joining, rank, size, port, (fates or {}).get(rank))
        logs.append(command.output.parent / f"{rank}.log")
        changes = [f"output={one.output}", f"engine={engine}", *more]
        cfg = children.OmegaConf.merge(one.cfg, children.OmegaConf.from_dotlist(changes))
        started.append(children.start(cfg, logs[-1], fate))
    codes = [children.finish(process) for process in started]
    return codes, [log.read_text() for log in logs]


def elsewhere(command: Command, folder: Path) -> Command:
    """The same command with nothing done yet, in another place."""
    (folder / "other").mkdir()
    return Command(command.cfg, folder / "other" / "outputs")


def exhaustive(*cases: tuple[object, ...]) -> list[Any]:
    """Of a product of parameters, those that are tested with all others alone."""
    return [pytest.param(*case, marks=pytest.mark.exhaustive) for case in cases]


def numbers(command: Command) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return (
        read_rows(command.directory / "metrics.jsonl"),
        read_rows(command.directory / "allocations.jsonl"),
    )


def near(row: Mapping[str, Any]) -> dict[str, Any]:
    """What equals the row up to rounding."""
    return {
        name: pytest.approx(value, rel=1e-5, abs=1e-5) if isinstance(value, float) else value
        for name, value in row.items()
    }


def assert_same_run(one: Command, other: Command) -> None:
    """Directory, losses, metrics, scores, weights to rounding; allocations exactly."""
    assert one.directory.name == other.directory.name
    (rows, searches), (others, theirs) = numbers(one), numbers(other)
    assert len(rows) == len(others)
    for mine, yours in zip(rows, others, strict=True):
        assert mine == near(yours)
    assert len(searches) == len(theirs) > 1
    for mine, yours in zip(searches, theirs, strict=True):
        assert mine["ranks"] == yours["ranks"]
        least = 1e-5 * max(yours["scores"].values())  # below it a sum of gradients is rounding
        assert mine["scores"] == pytest.approx(yours["scores"], rel=1e-3, abs=least)
    ours, its = one.outcome(), other.outcome()
    assert ours["names"] == its["names"]
    assert ours["run"]["status"] == its["run"]["status"] == "finished"
    assert ours["run"].get("test", {}) == near(its["run"].get("test", {}))
    for name in ("best.safetensors", "last.safetensors"):
        (_, mine), (_, yours) = ours[name], its[name]
        assert mine.keys() == yours.keys()
        for key in mine:
            a, b = (torch.frombuffer(bytearray(x[key]), dtype=torch.float32) for x in (mine, yours))
            torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def is_silent(log: str) -> bool:
    """But for what libraries say, most of which the command line keeps quiet."""
    return not any(word in log for word in ("error: ", "WARNING: ", "epoch", "Traceback"))


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(reference: Command, command: Command) -> None:
    rows, searches = numbers(reference)
    losses = [row["loss"] for row in rows if row["event"] == "step"]
    assert max(losses) - min(losses) > 1e-3  # else steps could be anything
    assert len({json.dumps(row["ranks"]) for row in searches}) > 1
    codes, (told, silent) = together(command, 2)
    assert codes == [0, 0], told + silent
    assert_same_run(reference, command)
    assert "best epoch" in told
    assert is_silent(silent)


@pytest.fixture(scope="module")
def fifty(plain: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A run of more than fifty steps with shortcuts and importance, made by one process."""
    shortcuts = ["search_space=lora_shortcuts", "rank_budget=l2_s11", "proxy=snip"]
    long = ["training.epochs=7", *shortcuts, "+proxy@importance.eva=eva", "proxy.num_batches=2"]
    command = command_of(plain, pairs, tmp_path_factory.mktemp("fifty") / "one", *long)
    assert command.run() == 0, command.log.read_text()
    assert len(numbers(command)[0]) > 50
    return command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "size"),
    [
        *(("distributed", 1), ("distributed", 4), ("sharded", 2)),
        *exhaustive(("distributed", 2), ("sharded", 1), ("sharded", 4)),
    ],
)
def test_fifty_steps_of_any_number_of_processes(
    engine: str, size: int, fifty: Command, tmp_path: Path
) -> None:
    other = elsewhere(fifty, tmp_path)
    codes, logs = together(other, size, engine=engine)
    assert codes == [0] * size, logs
    assert_same_run(fifty, other)
    mine, theirs = (read_rows(c.directory / "importance.jsonl") for c in (fifty, other))
    for row, its in zip(mine, theirs, strict=True):
        assert row.pop("scores") == its.pop("scores")
        assert row == pytest.approx(its, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "engine"),
    [
        *((0, "sharded"), (1, "distributed")),
        *exhaustive((0, "distributed"), (1, "sharded")),
    ],
)
def test_a_killed_process_ends_all_and_any_number_go_on(
    killed: int, engine: str, reference: Command, command: Command
) -> None:
    fates = {killed: functools.partial(children.in_step, 11)}
    codes, logs = together(command, 2, EVERY_STEP, engine=engine, fates=fates)
    assert codes[killed] == -9
    assert codes[1 - killed] == (1 if killed == 0 else 2)
    if killed == 1:
        errors = [line for line in logs[0].splitlines() if line.startswith("error")]
        assert len(errors) == 1
        assert "another process of this run ended unexpectedly" in errors[0]
        assert read_run(command.directory)["status"] == "failed"
    assert is_silent(logs[1])
    codes, logs = together(command, 3)
    assert codes == [0, 0, 0], logs
    provenance = json.loads((command.directory / "provenance.json").read_text())
    assert provenance["resumed"][0]["step"] == 10
    assert provenance["hardware"]["processes"] == 2
    assert provenance["resumed"][0]["hardware"]["processes"] == 3
    assert_same_run(reference, command)


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_any_process_stops_all_and_the_run_goes_on_in_one(
    signalled: int, reference: Command, command: Command
) -> None:
    fates = {signalled: functools.partial(children.in_step, 5, 15)}
    codes, logs = together(command, 2, engine="sharded", fates=fates)
    assert codes == [143, 143], logs
    assert read_run(command.directory)["status"] == "interrupted"
    assert [folder.name for folder in command.directory.glob("checkpoint/resume/*")] == [
        "step-00000005"
    ]
    assert command.run() == 0, command.log.read_text()
    assert_same_run(reference, command)
    codes, (told, silent) = together(command, 2)
    assert codes == [0, 0]
    assert "already finished" in told
    assert is_silent(silent)


def broken_in_step(count: int) -> None:
    """An error of this process alone."""

    def fail() -> None:
        raise ValueError("the cat sat on the GPU")

    children.at_step(count, fail)


@pytest.mark.slow
def test_the_first_process_tells_of_an_error_in_another(command: Command) -> None:
    codes, logs = together(command, 3, fates={2: functools.partial(broken_in_step, 3)})
    assert codes == [2, 1, 1]
    (said,) = [line for line in logs[0].splitlines() if "error" in line]
    assert said == "error: process 2 of 3: the cat sat on the GPU"
    assert is_silent(logs[1])
    assert read_run(command.directory)["error"] == "process 2 of 3: the cat sat on the GPU"


@pytest.mark.slow
def test_with_dropout_a_resumed_run_of_as_many_is_the_same_to_the_bit(
    checkpoints: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    model = checkpoints["opt-post-norm"]
    whole = command_of(model, pairs, tmp_path / "whole")
    assert together(whole, 2)[0] == [0, 0]
    other = elsewhere(whole, tmp_path)
    fates = {1: functools.partial(children.in_step, random.Random(0).randint(2, 14), 15)}
    assert together(other, 2, fates=fates)[0] == [143, 143]
    assert together(other, 2)[0] == [0, 0]
    assert whole.outcome() == other.outcome()


def join_step(rank: int, size: int, port: int, fate: Fate | None) -> None:
    """What SLURM says to a task of a step on one node."""
    for name in MEMBERS:
        os.environ.pop(name, None)
    os.environ |= {
        **{"SLURM_JOB_ID": str(port), "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"},
        **{"SLURM_JOB_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": str(size)},
        **{name: str(size) for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")},
        **{name: str(rank) for name in ("SLURM_PROCID", "SLURM_LOCALID")},
    }


@pytest.mark.slow
def test_the_tasks_of_a_slurm_step_find_each_other(reference: Command, command: Command) -> None:
    codes, logs = together(command, 2, joining=join_step)
    assert codes == [0, 0], logs
    assert is_silent(logs[1])
    assert_same_run(reference, command)


@pytest.mark.slow
def test_torchrun_starts_it(reference: Command, command: Command) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    start += ["--local-addr=127.0.0.1"]  # the name of the machine may stand for no address
    model, data = (f"{key}.path={command.cfg[key].path}" for key in ("model", "task"))
    short = ["task=rte", model, data, *SHORT, f"output={command.output}", "engine=sharded"]
    done = subprocess.run(
        [*start, str(ROOT / "train.py"), *short], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1
    assert_same_run(reference, command)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Member:
    """One of several processes, which are not there."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 4), (7, 3), (8, 4)])
def test_shares_are_all_that_there_is_once(count: int, size: int) -> None:
    shares = [range(*share(count, Member(rank, size))) for rank in range(size)]
    assert [i for own in shares for i in own] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert max(map(len, shares)) == -(-count // size)


def test_a_process_without_rows_passes_the_first_one_along() -> None:
    batch = {"input_ids": torch.arange(6).view(3, 2), "labels": torch.arange(3)}
    assert torch.equal(rows_of(batch, 1, 3)["labels"], torch.tensor([1, 2]))
    idle = rows_of(batch, 3, 3)
    assert isinstance(idle, Idle)
    assert torch.equal(idle["input_ids"], torch.tensor([[0, 1]]))
    assert not isinstance(rows_of(batch, 0, 1), Idle)


def test_processes_draw_numbers_of_their_own_from_one_stream() -> None:
    streams = [OwnStream(rank, 3, "dropout", device=torch.device("cpu")) for rank in (0, 1)]
    before, drawn = torch.get_rng_state(), []
    for stream in streams:
        for _ in range(2):
            with stream:
                drawn.append(torch.rand(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert len({tuple(row.tolist()) for row in drawn}) == 4
    assert torch.equal(streams[0].state_dict()["cpu"], streams[1].state_dict()["cpu"])
    other = OwnStream(1, 0, "dropout", device=torch.device("cpu"))
    other.load_state_dict(streams[0].state_dict())
    with other, streams[1]:
        later = torch.rand(4)
    with streams[0]:
        assert not torch.equal(torch.rand(4), later)


def test_what_is_frozen_is_divided_and_what_is_trained_is_not(
    alone: None, checkpoints: dict[str, Path]
) -> None:
    loaded = load(checkpoints["bert"])
    adapters = wire(loaded.model, loaded.family, Space(lora={"q": 2}), loaded.head, seed=0)
    shard(adapters, layers_of(loaded.model, loaded.family), torch.device("cpu"))
    trained = {id(parameter) for parameter in adapters.named_tensors().values()}
    assert len(trained) > 3
    for name, parameter in loaded.model.named_parameters():
        assert hasattr(parameter, "placements") != (id(parameter) in trained), name


OF_A: dict[str, Any] = {"sentences": ("{a}",), "label": "label", "max_length": 8}
OF_CHOICES: dict[str, Any] = OF_A | {"sentences": ("{choice}",)}
TASKS: dict[str, Task] = {
    "classes": task(metrics=("accuracy", "f1", "matthews")).build(),
    "numbers": task(metrics=("pearson", "spearman"), num_labels=1).build(),
    "groups": Grouped(metrics=("exact_match", "macro_f1"), num_labels=2, group=("idx",), **OF_A),
    "choices": MultipleChoice(metrics=("accuracy",), choices=("a", "b", "c"), **OF_CHOICES),
    "answers": MultipleChoice(
        metrics=("exact_match", "token_f1"), choices=("answers",), **OF_CHOICES
    ),
    "labels of tokens": TokenLabels(text="text", label="label", max_length=8),
    "next tokens": CausalLM(text="text", max_length=8),
}


def measures(name: str, n: int, generator: torch.Generator) -> Batch:
    """What of a batch of n examples losses and metrics read."""

    def drawn(below: int, *shape: int) -> torch.Tensor:
        return torch.randint(below, shape, generator=generator)

    if name in ("labels of tokens", "next tokens"):
        labels = drawn(7, n, 5)
        return {LABELS: labels.where(drawn(3, n, 5) > 0, -100)}
    if name in ("choices", "answers"):
        there = torch.ones(n, 3, dtype=torch.int32)
        right = torch.nn.functional.one_hot(drawn(3, n), 3)
        return {CHOICES: there, LABELS: right, CREDITS: torch.rand(n, 3, generator=generator)}
    if name == "numbers":
        return {LABELS: torch.rand(n, generator=generator)}
    return {LABELS: drawn(2, n), GROUPS: drawn(12, n)}


def logits_of(name: str, n: int) -> tuple[int, ...]:
    shapes = {"choices": (3 * n, 1), "answers": (3 * n, 1), "numbers": (n, 1)}
    return shapes.get(name, (n, 5, 7) if "tokens" in name else (n, 2))


def drawn_batches(name: str, *sizes: int) -> list[tuple[Any, Batch]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            SimpleNamespace(logits=torch.randn(logits_of(name, n), generator=generator)),
            measures(name, n, generator),
        )
        for n in sizes
    ]


@pytest.mark.parametrize("name", TASKS)
def test_metrics_of_parts_are_those_of_the_whole(name: str) -> None:
    """One process had two batches, one had none, and one had three."""
    batches = drawn_batches(name, 7, 7, 7, 7, 3)
    whole, *parts = (TASKS[name].metric() for _ in range(4))
    for part, own in zip(parts, (batches[:2], [], batches[2:]), strict=True):
        for output, batch in own:
            whole.update(output, batch)
            part.update(output, batch)
    of_one, merged = parts[0].compute(), TASKS[name].metric()
    for part in parts:
        merged.absorb(part)
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-6)
    for metric in ("loss", *TASKS[name].metrics):
        assert merged.compute()[metric] != pytest.approx(of_one[metric], rel=1e-3), metric


def test_metrics_of_every_kind_are_put_together() -> None:
    def below(kind: type) -> Iterator[type]:
        for one in kind.__subclasses__():
            yield from (one, *below(one))

    tested = {type(kind.metric()) for kind in TASKS.values()}
    ours = {kind for kind in below(Metric) if kind.__module__.startswith("heterolora.")}
    assert ours == tested
    assert all("absorb" in vars(kind) for kind in ours)


@pytest.mark.parametrize("name", TASKS)
def test_losses_are_counted_without_being_computed(name: str) -> None:
    """A share of a step is divided by how many losses the whole step has."""
    ((output, batch),) = drawn_batches(name, 6)
    _, count = TASKS[name].loss(output, batch)
    assert int(TASKS[name].count(batch)) == int(count)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_divided_model_computes_what_the_whole_one_does(
    name: str, alone: None, checkpoints: dict[str, Path]
) -> None:
    """Of every family; in one process the parts are whole, and gathered all the same."""
    loaded = load(checkpoints[name])
    adapters = wire(loaded.model, loaded.family, space(), loaded.head, seed=0)
    randomize(adapters)
    batch = {"input_ids": torch.arange(4, 16).view(2, 6), "attention_mask": torch.ones(2, 6).int()}

    def passed() -> list[torch.Tensor]:
        logits = loaded.model(**batch).logits
        trained = list(adapters.named_tensors().values())
        return [logits, *torch.autograd.grad(logits.square().sum(), trained, allow_unused=True)]

    whole = passed()
    shard(adapters, layers_of(loaded.model, loaded.family), torch.device("cpu"))
    for mine, its in zip(whole, passed(), strict=True):
        assert (mine is None) == (its is None)
        if mine is not None:
            torch.testing.assert_close(its, mine, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def places(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny OPT, a tiny Llama with its own head, and data of every kind."""
    folder = tmp_path_factory.mktemp("kinds")
    language_model("llama").save_pretrained(folder / "llama")
    tiny_tokenizer().save_pretrained(folder / "llama")
    splits = {"train": 57, "validation": 40, "test": 30}
    pairs = {name: sentence_pairs(n, seed=n) for name, n in splits.items()}
    write_parquet(folder / "rte", **pairs)
    for name in ("multirc", "record"):
        rows = {split: glue_rows(name, n, seed=n) for split, n in splits.items()}
        write_parquet(folder / name, **rows)
    write_parquet(folder / "wikitext2", train={"text": TEXTS * 8}, validation={"text": TEXTS * 3})
    lines = {name: [*column[:2]] * 20 for name, column in ALPACA.items()}
    write_parquet(folder / "alpaca", train=lines)
    return {"opt": plain, **{file.name: file for file in folder.iterdir()}}


KINDS = {
    "rte": ["evaluation.split=halves", "evaluation.test=test"],
    "multirc": ["evaluation.test=test", "optimizer.learning_rate=0.001"],
    "record": ["evaluation.test=test", "optimizer.learning_rate=0.001"],
    "wikitext2": ["task.stride=6", "task.max_length=24"],
    "alpaca": [*PROMPTS, "task.held_out=12", "task.max_length=24", "task.packing=true"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        *(("rte", "distributed"), ("multirc", "sharded"), ("record", "distributed")),
        *(("wikitext2", "sharded"), ("alpaca", "distributed")),
        *exhaustive(("rte", "sharded"), ("multirc", "distributed"), ("record", "sharded")),
        *exhaustive(("wikitext2", "distributed"), ("alpaca", "sharded")),
    ],
)
def test_tasks_of_every_kind_in_three_processes(
    kind: str, engine: str, places: dict[str, Path], tmp_path: Path
) -> None:
    """Batches of an evaluation cut groups and streams in two; what is trained can be predicted."""
    # The Llama has large weights: no two choices have one score, and rounding grows in long steps.
    model = places["opt" if kind == "rte" else "llama"]
    more = [one for one in KINDS[kind] if engine == "distributed" or "packing" not in one]
    more = ["evaluation.batch_size=5", *more]
    command = command_of(model, places[kind], tmp_path / "one", *more, task=kind)
    assert command.run() == 0, command.log.read_text()
    other = elsewhere(command, tmp_path)
    codes, logs = together(other, 3, engine=engine)
    assert codes == [0, 0, 0], logs
    assert_same_run(command, other)
    tested = other.outcome()["run"].get("test")
    assert ("test" in str(more)) == (tested is not None)
    if kind == "rte":
        predict.main([str(other.directory), "--split", "test"])
        file = other.directory / "predictions" / "rte-test.parquet"
        rows = parquet.read_table(file).to_pydict()
        right = [a == b for a, b in zip(rows["label"], rows["prediction"], strict=True)]
        assert tested["accuracy"] == sum(right) / 30


@pytest.mark.slow
def test_the_planted_task_in_two_processes(tmp_path: Path) -> None:
    more = ["task.planting=4", "training.max_steps=6", "optimizer.learning_rate=0.001"]
    command = command_of(None, None, tmp_path / "one", *more, task="starter_planted")
    assert command.run() == 0, command.log.read_text()
    other = elsewhere(command, tmp_path)
    codes, logs = together(other, 2)
    assert codes == [0, 0], logs
    assert_same_run(command, other)


REFUSED = {
    "engine=distributed proxy.source=running": "would see only one process's share of each step",
    "engine=distributed device=cuda:1": "needs one GPU per process; set device=cuda",
    "engine=sharded method=bitfit": "trains inside the layers that this engine splits",
    "engine=sharded proxy=synflow": "reads whole weights",
    "engine=sharded +proxy@importance.gora=gora": "importance.gora.name=gora: reads whole weights",
    "engine=sharded training.compile=true": "does not support torch.compile",
    "engine=sharded model.quantization=4bit": "does not support quantized weights",
    "engine=sharded task=alpaca task.packing=true": "does not support packing",
    "engine=several": "engine=several: must be",
}
CHOICES_OF_FILES = ("method=", "proxy=", "+proxy@", "task=")
"""Overrides that have to be composed, by their beginnings."""


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_an_engine_cannot_train_is_refused(overrides: str) -> None:
    groups = [one for one in overrides.split() if one.startswith(CHOICES_OF_FILES)]
    values = [one for one in overrides.split() if one not in groups]
    cfg = composed("device=cpu", "tracking=local", *groups)
    found = problems(edited(cfg, *values))
    assert any(REFUSED[overrides] in line for line in found), found
    assert all(";" in line for line in found)


def test_engines_and_processes_have_to_fit(
    command_line: CommandLine, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MEMBERS:
        monkeypatch.delenv(name, raising=False)
    done = command_line(*tiny, "engine=distributed")
    assert done.code == 2
    assert done.err.startswith("error: engine=distributed: no processes were started for it;")
    packed = ["-m", *tiny, "hydra/launcher=packed", "engine=sharded", "seed=0,1"]
    assert "hydra/launcher=packed trains in one process" in command_line(*packed).err
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    done = command_line(*tiny)
    assert done.code == 2
    assert done.err.startswith("error: engine=local: 3 processes were started for one run;")
    assert "only one may plan a sweep" in command_line("-m", *tiny, "seed=0,1").err
    monkeypatch.setenv("RANK", "2")
    assert command_line(*tiny) == type(done)(2, "", "")  # the first one says it


def test_the_first_of_the_tasks_of_a_slurm_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert first()
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert first()  # of a shell that remembers
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert not first()
    monkeypatch.setenv("RANK", "0")
    assert first()
