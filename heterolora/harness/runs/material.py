"""Read the data and the model of a run, and make a trainer from them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from heterolora import architectures
from heterolora.adapters import Adapters
from heterolora.architectures import Loaded
from heterolora.harness.config import Config, checkpoints
from heterolora.harness.data import sources
from heterolora.harness.data.remarks import remarks
from heterolora.harness.runs.build import build_adapters, build_search, build_splits, build_trainer
from heterolora.tasks import Examples, Task
from heterolora.training.checkpoint import CheckpointManager
from heterolora.training.logging import Logger
from heterolora.training.memory import memory_advice
from heterolora.training.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """The data and the model that were read for a run.

    Attributes:
        config: the configuration of the run.
        task: the task of the run.
        splits: `train` and `validation`, and `test` if there is one.
        loaded: the model.
    """

    config: Config
    task: Task
    splits: Mapping[str, Examples]
    loaded: Loaded

    @classmethod
    def read(cls, config: Config) -> "Material":
        """Read data and model.

        Raises:
            UserError: if they are not available.
        """
        task, splits = config.task.build(), sources.load_splits(config.task)
        if config.evaluation.test is not None:
            splits["test"] = sources.load_test(config.task, config.evaluation.test)
        if config.training.limit_examples is not None:
            splits["train"] = splits["train"].limited(config.training.limit_examples)
        for remark in remarks(task, splits):
            logger.warning(remark)
        loaded = checkpoints.load(config.model, task, config.seed, config.device)
        return cls(config, task, splits, loaded)

    def trainer(
        self,
        logger: Logger,
        weights: Path | None,
        manager: CheckpointManager | None,
        pause: Callable[[Callable[[], None]], object],
    ) -> Trainer:
        """Make the trainer and everything it needs; arguments are those of `build_trainer`."""
        config, task = self.config, self.task
        with memory_advice(torch.device(config.device)):
            encoded = build_splits(config, task, self.splits, self.loaded)
            adapters = build_adapters(config, self.loaded, encoded["train"])
            if task.packs:
                architectures.separate(adapters.model, self.loaded.family)
            _warn_of_width(adapters)
            search = build_search(config, adapters, task, encoded["train"])
            return build_trainer(
                config, adapters, task, encoded, search, logger, weights, manager, pause
            )


def _warn_of_width(adapters: Adapters) -> None:
    """Warn if the capacity of a site exceeds the rank that a matrix there can have."""
    wide = {
        site.role: (adapter.capacity, min(adapter.A.shape[1], adapter.B.shape[0]))
        for site, adapter in adapters.items()
        if adapter.capacity > min(adapter.A.shape[1], adapter.B.shape[0])
    }
    if wide:
        role, (capacity, width) = next(iter(wide.items()))
        logger.warning(
            "sites of role %s can have rank %d (rank budget / enable rate), but the model's width "
            "there is %d: ranks above that cost parameters and add nothing",
            role,
            capacity,
            width,
        )
