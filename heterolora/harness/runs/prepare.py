"""Turn a composed configuration into that of a run, adding what only the data determines."""

from omegaconf import DictConfig

from heterolora.harness import config
from heterolora.harness.config import Config


def prepare(cfg: DictConfig) -> Config:
    """Validate a composed configuration, and settle what depends on the machine and the data.

    Raises:
        ConfigError: with all problems.
        DataError: if the data is needed for this and cannot be read.
    """
    valid = config.prepare(cfg)
    task = valid.task.build()
    if task.is_settled:
        return valid
    from heterolora.harness.data import sources  # late: it imports torch

    where, columns = sources.read(valid.task, valid.task.train_split)
    settled = valid.task.model_copy(update=task.settled(columns, where))
    return valid.model_copy(update={"task": settled})
