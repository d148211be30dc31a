"""Measure what the embedded task asks of the embedded model: the table in the README.

    python scripts/measure_starter.py

prints, over seeds 0, 13 and 42, the best validation accuracy of the majority class, of the head
alone on the frozen model at several learning rates, of homogeneous LoRA, and of each searched arm.
"""

import argparse
import random
import statistics
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console

from heterolora import architectures, command, experiment
from heterolora.config import Config
from heterolora.data import sources
from heterolora.data.batching import encode
from heterolora.data.tasks import summed_loss
from heterolora.strategies.homogeneous import Homogeneous
from heterolora.tracking.sinks import Sinks
from heterolora.training.clock import Clock
from heterolora.training.evaluate import evaluate
from heterolora.training.loop import Progress, Training
from heterolora.training.optimizer import build_optimizer
from heterolora.training.precision import autocast_for

SEEDS = (0, 13, 42)
HEAD_RATES = (2e-3, 1e-2)
ARMS = (
    "strategy=homogeneous",
    "strategy=dynamic proxy=gradnorm",
    "strategy=dynamic proxy=constant",
)


def composed(*overrides: str) -> DictConfig:
    """The configuration of the command line."""
    with initialize_config_dir(str(command.CONF), version_base=command.HYDRA_VERSION):
        return compose("config", ["tracking=local", "device=cpu", *overrides])


def majority() -> float:
    """The share of the commonest label among the validation examples."""
    task = experiment.prepare(composed()).task
    labels = sources.load(task, task.validation_split).labels
    return Counter(labels).most_common(1)[0][1] / len(labels)


def head_only(config: Config, folder: Path) -> float:
    """The best accuracy of the head alone: no adapters, all else as in a run."""
    device, task = torch.device("cpu"), config.task
    loaded = architectures.load(config.model, task, config.seed)
    inventory = architectures.wire(loaded.model, loaded.family, {}, 1, 0, loaded.head)
    train, validation = (
        encode(task, sources.load(task, split), loaded.tokenizer, loaded.positions, device)
        for split in (task.train_split, task.validation_split)
    )
    loss, autocast = summed_loss(task), autocast_for("fp32", device)
    progress = Progress(primary="accuracy")
    size = config.evaluation.batch_size
    Training(
        inventory=inventory,
        examples=train,
        loss=loss,
        optimizer=build_optimizer(inventory, config.optimizer),
        schedule=Homogeneous(enable_rate=1),
        reallocate=None,
        evaluate=partial(evaluate, loaded.model, task, validation, size, loss, autocast),
        autocast=autocast,
        config=config.training,
        seed=config.seed,
        sink=Sinks([]),
        clock=Clock(device),
        weights=folder,
        progress=progress,
        selection=random.Random(config.seed),
        keep=lambda *_: None,
        every_minutes=config.checkpoint.every_minutes,
    ).run()
    assert progress.best is not None
    return float(progress.best["accuracy"])


def show(arm: str, values: list[float]) -> None:
    """A row of the table."""
    cells = [arm, *(f"{100 * value:.1f}" for value in values)]
    if len(values) > 1:
        mean, spread = statistics.mean(values), statistics.stdev(values)
        cells.append(f"{100 * mean:.1f} ± {100 * spread:.1f}")
    print("RESULT | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    show("majority class", [majority()])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rate in HEAD_RATES:
            override = f"optimizer.learning_rate={rate}"
            runs = [experiment.prepare(composed(f"seed={seed}", override)) for seed in SEEDS]
            show(f"head only, lr {rate:g}", [head_only(config, folder) for config in runs])
        for arm in ARMS:
            runs_of_arm = [
                composed(*arm.split(), f"seed={seed}", f"output={folder}") for seed in SEEDS
            ]
            show(arm, [experiment.run(cfg, Console()).metric for cfg in runs_of_arm])


if __name__ == "__main__":
    main()
