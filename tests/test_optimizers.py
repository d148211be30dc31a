"""How steps are made: optimizers, schedules, clipping, micro-batches, and when they end."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CommandLine, composed
from omegaconf import DictConfig
from support import Subject, randomize, subject, task
from torch import Tensor

from heterolora.adapters import Adapters
from heterolora.errors import ConfigError, TrainingError
from heterolora.harness.config import identity, prepare
from heterolora.harness.records.record import read_rows, read_run
from heterolora.losses import inputs
from heterolora.training.engines import LocalEngine
from heterolora.training.optimizers import AdamW, Torch
from heterolora.training.schedule import make_schedule


@pytest.mark.parametrize("total", [1, 10, 459])
@pytest.mark.parametrize("warmup", [0.0, 0.06, 0.5])
def test_schedules_by_their_formulas(warmup: float, total: int) -> None:
    rise = math.ceil(warmup * total)
    falls = {
        "constant": lambda part: 1.0,
        "linear": lambda part: 1 - part,
        "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2,
    }
    for name, fall in falls.items():
        schedule = make_schedule(name, warmup, total)
        for step in range(total):
            expected = step / rise if step < rise else fall((step - rise) / (total - rise))
            assert schedule(step) == pytest.approx(expected)


def engine(here: Subject, rate: float = 0.05, **changes: Any) -> LocalEngine:
    settings = Torch(learning_rate=rate, options={"_target_": "torch.optim.SGD"})
    return LocalEngine(here.adapters, task().build(), settings.make(here.adapters), **changes)


def weights(adapters: Adapters) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in adapters.named_tensors().items()}


def test_a_step_in_parts_is_the_step(checkpoints: dict[str, Path], pairs: Path) -> None:
    """Dropout off, or each part would draw its own."""

    def made(size: int | None) -> tuple[list[float], dict[str, Tensor]]:
        here = subject(checkpoints["bert"], pairs)
        randomize(here.adapters)
        for module in here.adapters.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        one = engine(here, micro_batch_size=size)
        losses = [one.step(batch).item() for batch in here.examples.in_order(8, 24)]
        return losses, weights(here.adapters)

    losses, whole = made(None)
    for size in (1, 3, 8, 100):
        parts, other = made(size)
        assert parts == pytest.approx(losses, rel=1e-5), size
        for name, tensor in whole.items():
            assert torch.allclose(tensor, other[name], atol=1e-6), (size, name)


def test_gradients_are_clipped_together(checkpoints: dict[str, Path], pairs: Path) -> None:
    """One step of SGD moves all weights by rate x max_grad_norm, where the norm was larger."""
    here = subject(checkpoints["bert"], pairs)
    randomize(here.adapters)
    before = weights(here.adapters)
    (batch,) = here.examples.in_order(8, 8)
    engine(here, rate=0.5, max_grad_norm=0.01).step(batch)
    after = weights(here.adapters)
    moved = torch.stack([(after[name] - before[name]).square().sum() for name in before]).sum()
    assert moved.sqrt().item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_the_learning_rate_follows_its_schedule(train: CommandLine, monkeypatch: Any) -> None:
    rates: list[float] = []
    whole = LocalEngine.update

    def watched(self: LocalEngine) -> None:
        rates.extend({group["lr"] for group in self.optimizer.param_groups})
        whole(self)

    monkeypatch.setattr(LocalEngine, "update", watched)
    more = ("strategy=homogeneous", "optimizer.learning_rate=0.008")
    assert train("scheduler=linear", "scheduler.warmup=0.25", *more).code == 0
    steps = len(rates)
    rise = math.ceil(0.25 * steps)
    assert rates[:rise] == pytest.approx([0.008 * step / rise for step in range(rise)])
    fall = [0.008 * (steps - step) / (steps - rise) for step in range(rise, steps)]
    assert rates[rise:] == pytest.approx(fall)


def test_training_ends_at_the_step_that_is_asked_for(train: CommandLine) -> None:
    done = train("training.max_steps=11", "training.epochs=3")
    assert "epoch  2/2" in done.out
    run, rows = read_run(done.record), read_rows(done.record / "metrics.jsonl")
    assert run is not None
    assert run["steps"] == 11
    epochs = [row for row in rows if row["event"] == "epoch"]
    assert [row["step"] for row in epochs] == [8, 11]
    whole = train("training.epochs=3").record
    first = next(row for row in read_rows(whole / "metrics.jsonl") if row["event"] == "epoch")
    assert first == epochs[0]


def test_training_ends_when_patience_does(train: CommandLine) -> None:
    """With a learning rate of next to nothing no epoch is better than the first."""
    still = ["optimizer.learning_rate=1e-12", "training.epochs=6"]
    directory = train(*still, "training.patience=2", "strategy=homogeneous").record
    epochs = [r for r in read_rows(directory / "metrics.jsonl") if r["event"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    assert (run := read_run(directory)) is not None
    assert run["status"] == "finished"
    assert run["best"]["epoch"] == 1  # of equal epochs the first


def test_checkpointing_gradients_computes_a_layer_twice(
    checkpoints: dict[str, Path], pairs: Path
) -> None:
    losses, calls = [], []
    for on in (False, True):
        here = subject(checkpoints["opt-post-norm"], pairs)
        model = here.adapters.model
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        counted: list[int] = []
        layer = model.get_submodule("model.decoder.layers.1.fc1")
        layer.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        (batch,) = here.examples.in_order(8, 8)
        losses.append(engine(here).step(batch).item())
        calls.append(len(counted))
        assert inputs(batch)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert calls == [1, 2]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["~optimizer.options.momentum", "optimizer.options._target_=torch.optim.Adafactor"],
        ["~optimizer.options.momentum", "optimizer.options._target_=torch.optim.NAdam"],
    ],
)
def test_any_optimizer_of_torch(options: list[str], train: CommandLine) -> None:
    """Sites that a search switched off keep their weights bit for bit, whatever steps."""
    directory = train("optimizer=sgd", *options, "strategy=static", "training.epochs=1").record
    (search,) = read_rows(directory / "allocations.jsonl")
    from safetensors.torch import load_file

    tensors = load_file(directory / "checkpoint" / "last.safetensors")
    for site, rank in search["ranks"].items():
        assert bool(tensors[f"{site}.B"].any()) == (rank > 0), site


def test_another_optimizer_is_another_run(house: DictConfig) -> None:
    ours = identity(prepare(house))
    settings = ["optimizer=sgd", "optimizer.learning_rate=2e-4"]
    assert identity(prepare(composed(*HOUSE, *settings))) != ours


HOUSE = ["device=cpu", "tracking=local"]


@pytest.fixture
def house() -> DictConfig:
    return composed(*HOUSE, "optimizer.learning_rate=2e-4")


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        (["optimizer.options._target_=os.system"], "optimizer.options._target_=os.system: must be"),
        (["optimizer.options._target_=torch.optim.Nope"], "optimizer.options._target_=torch"),
        (["optimizer.learning_rate=0"], "optimizer.learning_rate=0: "),
    ],
)
def test_what_is_no_optimizer_is_refused(changes: list[str], start: str) -> None:
    with pytest.raises(ConfigError) as raised:
        prepare(composed(*HOUSE, "optimizer=sgd", *changes))
    (line,) = raised.value.problems
    assert line.startswith(start)


def test_betas_are_two_numbers() -> None:
    for betas in ((0.9,), (0.9, 1.0), (0.9, 0.99, 0.999)):
        with pytest.raises(ValueError, match=r"^betas=\[.*\]: must be two numbers"):
            AdamW(learning_rate=0.1, betas=betas)


def test_arguments_that_an_optimizer_refuses(checkpoints: dict[str, Path], pairs: Path) -> None:
    settings = Torch(learning_rate=0.1, options={"_target_": "torch.optim.SGD", "beta": 1})
    with pytest.raises(TrainingError, match=r"^optimizer\.options: SGD rejects them"):
        settings.make(subject(checkpoints["bert"], pairs).adapters)


@pytest.mark.slow
def test_runs_that_differ_in_all_of_this_are_packed_as_if_alone(
    command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    """Schedules, clipping and patience are each run's own; micro-batches are made alone."""
    grids = (
        "[{scheduler:linear},{training.max_grad_norm:0.1},{training.max_steps:7},"
        "{training.micro_batch_size:3},{optimizer:sgd,scheduler.warmup:0.5},"
        "{training.gradient_checkpointing:true}]"
    )
    common = [*tiny, "training.epochs=2", "proxy=gradnorm", f"hydra.sweeper.grids={grids}"]
    found = []
    for launcher in (["hydra/launcher=packed"], []):
        output = tmp_path / str(len(launcher))
        assert command_line("-m", *common, *launcher, f"output={output}").code == 0
        runs = sorted(output.rglob("run.json"))
        assert len(runs) == 6
        found.append({f.parent.name: json.loads(f.read_text())["last"] for f in runs})
    packed, alone = found
    assert packed.keys() == alone.keys()
    for name, row in alone.items():
        assert packed[name]["train_loss"] == pytest.approx(row["train_loss"], rel=1e-4)
