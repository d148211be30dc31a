"""How important the sites of a run turn out to be, beside what proxies said before."""

from typing import Any

from heterolora.harness.config import Config
from heterolora.proxies.base import scores_of
from heterolora.sites import Site
from heterolora.tasks import Task
from heterolora.training.importance import leave_one_out
from heterolora.training.precision import autocast_for
from heterolora.training.trainer import Trainer

Row = dict[str, Any]


def scores_before(config: Config, task: Task, trainer: Trainer) -> dict[str, dict[Site, float]]:
    """Return the score of every site before training, for each proxy of `importance`."""
    proxies = {name: section.build() for name, section in config.importance.items()}
    autocast = autocast_for(config.precision, trainer.device)
    adapters, loss = trainer.engine.adapters, task.loss
    return scores_of(proxies, adapters, trainer.train, loss, autocast)


def importance_after(trainer: Trainer, scores: dict[str, dict[Site, float]]) -> list[Row]:
    """Measure the importance of each site after training, beside the proxies' earlier scores."""
    adapters = trainer.engine.adapters
    said = {
        str(site): {name: by_site[site] for name, by_site in scores.items()}
        for site in adapters.sites
    }
    left_out = leave_one_out(adapters, trainer.evaluate, trainer.metric, trainer.higher_is_better)
    return [{**row, "scores": said[row["site"]]} for row in left_out]
