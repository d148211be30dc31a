"""What is written down of a run: where model and data come from, and what came of it."""

from collections.abc import Mapping
from typing import Any

import torch

from heterolora.architectures import Loaded
from heterolora.harness.config import Config
from heterolora.harness.config.fingerprints import model_fingerprint
from heterolora.harness.data import sources
from heterolora.harness.runs.build import build_budget
from heterolora.tasks import Examples, Task
from heterolora.training.memory import peak_memory
from heterolora.training.trainer import Trainer

Row = dict[str, Any]


def results(config: Config, task: Task, trainer: Trainer) -> Row:
    """Return the results of a run so far, and its cost, for `run.json`."""
    progress, adapters = trainer.progress, trainer.engine.adapters
    return {
        "steps": progress.step,
        "primary_metric": trainer.metric,
        "higher_is_better": trainer.higher_is_better,
        "unit": task.unit(trainer.metric),
        "best": progress.best,
        "last": progress.last,
        **({"test": {"split": config.evaluation.test, **progress.test}} if progress.test else {}),
        "searches_per_epoch": trainer.strategy.periodic(trainer.steps_per_epoch),
        "parameters": {
            "budget": build_budget(config),
            "enabled": adapters.count,
            "sites": len(adapters),
            "sites_enabled": len(adapters.enabled),
            "head": adapters.head_count,
        },
        "seconds": {name: round(value, 3) for name, value in trainer.clock.seconds.items()},
        "peak_memory_bytes": peak_memory(trainer.device),
    }


def unchanging(config: Config, identity: str, origin: Row) -> Row:
    """Return what must not change while a run is unfinished, worded for an error message."""
    return {
        "configuration": identity,
        "seed": config.seed,
        "device": torch.device(config.device).type,
        "model": origin["model"]["revision"],
        "training data": origin["data"]["train"]["fingerprint"],
        "validation data": origin["data"]["validation"]["fingerprint"],
        **({"test data": origin["data"]["test"]["fingerprint"]} if config.evaluation.test else {}),
    }


def origin(config: Config, loaded: Loaded, splits: Mapping[str, Examples]) -> Row:
    """Return the part of `provenance.json` about model and data."""
    return {
        "model": {
            "name": config.model.name,
            "path": config.model.path,
            "revision": loaded.revision,
            "fingerprint": model_fingerprint(config.model),
        },
        "data": {
            "task": config.task.name,
            "source": config.task.source,
            "path": config.task.path,
            **sources.right_sites(config.task),
            **{
                name: {"rows": len(split), "fingerprint": split.fingerprint()}
                for name, split in splits.items()
            },
        },
    }
