"""Build the objects of a run from its configuration."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from heterolora.adapters import Adapters, Space
from heterolora.adapters.full_parameters import Trained
from heterolora.allocation import Pool, enabled_rank, homogeneous_budget, make_pools
from heterolora.architectures import Loaded, layers_of
from heterolora.errors import DataError, ModelError, UserError, one_line
from heterolora.harness.config import Config, checkpoints
from heterolora.harness.config.schema import SchedulerConfig
from heterolora.methods.base import Given
from heterolora.proxies.base import Examples
from heterolora.settings import stateful
from heterolora.strategies import Search
from heterolora.tasks import Task
from heterolora.tasks.base import Examples as Rows
from heterolora.tasks.encoded import Encoded
from heterolora.training.checkpoint import CheckpointManager
from heterolora.training.collective import SharedSearch, SharedWeights
from heterolora.training.compiling import LENGTHS, compiled
from heterolora.training.engines import LocalEngine
from heterolora.training.engines.distributed import DistributedEngine
from heterolora.training.engines.sharding import shard
from heterolora.training.logging import Logger
from heterolora.training.precision import autocast_for
from heterolora.training.schedule import make_schedule
from heterolora.training.trainer import Trainer
from heterolora.training.weights import WeightFiles

logger = logging.getLogger(__name__)

WINDOW = 50
"""Number of batches over which examples are grouped by length, if `group_by_length` is set."""


def build_space(config: Config) -> Space:
    """Build the search space: a site's capacity is rank budget / enable rate."""
    space, budget = config.search_space, config.rank_budget.ranks()
    capacities: dict[str, dict[str, int]] = {}
    budget_ranks: dict[str, int] = {}
    for kind, roles in space.roles().items():
        capacity = enabled_rank(budget[kind], config.strategy.enable_rate)
        assert capacity is not None or not roles  # guaranteed by a rule of the configuration
        capacities[kind] = dict.fromkeys(roles, capacity or 0)
        # Where the budget's rank is below 1, alpha is divided by 1: ranks that are on are whole.
        budget_ranks |= dict.fromkeys(roles, max(1, round(budget[kind])))
    return Space(
        lora=capacities["lora"],
        shortcuts=capacities["shortcut"],
        lora_alpha=space.lora_alpha,
        shortcut_alpha=space.shortcut_alpha,
        scaling=space.scaling,
        budget_ranks=budget_ranks,
        renormalize=space.renormalize,
        exclude=space.exclude,
    )


def build_splits(
    config: Config, task: Task, splits: Mapping[str, Rows], loaded: Loaded
) -> dict[str, Encoded]:
    """Tokenize the splits, all but `train` for evaluation; warn about lost tokens or examples."""
    given = (loaded.tokenizer, loaded.positions, torch.device(config.device))
    try:
        encoded = {
            name: (task.encode if name == "train" else task.encode_evaluation)(split, *given)
            for name, split in splits.items()
        }
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever tokenizers raises for a broken file
        raise ModelError(
            f"{config.model.where}: its tokenizer does not work ({one_line(error)[:160]}); give "
            "the one that belongs to the model"
        ) from error
    check_vocabulary(encoded, loaded, config.model.where)
    limit = encoded["train"].limit
    remedy = (
        "the model has no more positions"
        if limit == loaded.positions
        else "to keep more of them, raise task.max_length"
    )
    if truncated := sum(split.truncated for split in encoded.values()):
        whole = sum(map(len, splits.values()))
        logger.warning(
            "%s examples are longer than %s tokens and were truncated; %s",
            f"all {whole}" if truncated == whole else f"{truncated} of {whole}",
            limit,
            remedy,
        )
    if dropped := sum(split.dropped for split in encoded.values()):
        logger.warning(
            "%d of %d examples have no room for an answer within %s tokens and were dropped; %s",
            dropped,
            sum(map(len, splits.values())),
            limit,
            remedy,
        )
    return encoded


def check_vocabulary(encoded: Mapping[str, Encoded], loaded: Loaded, where: str) -> None:
    """Check that the model has an embedding for every token.

    Raises:
        ModelError: if the tokenizer belongs to another model.
    """
    known = loaded.model.get_input_embeddings().num_embeddings
    rows = [row.flatten() for split in encoded.values() for row in split.features["input_ids"]]
    highest = int(torch.cat(rows).max()) if any(map(len, rows)) else 0
    if highest >= known:
        raise ModelError(
            f"{where}: its tokenizer gives token {highest}, but the model has embeddings for only "
            f"{known} tokens; give the tokenizer that belongs to the model"
        )


class TrainingSplit(Examples, Protocol):
    """The training split, as methods see it."""

    def batches(self, size: int) -> int:
        """Return the number of batches of `size` examples."""


def build_adapters(config: Config, loaded: Loaded, train: TrainingSplit) -> Adapters:
    """Apply the method to the loaded model, which is moved to its device."""
    device = torch.device(config.device)
    if config.engine != "sharded":  # layers move one by one: the device may not hold all
        loaded.model.to(device)
    given = Given(
        loaded=loaded,
        space=build_space(config),
        budget=build_budget(config),
        seed=config.seed,
        steps=config.training.epochs * train.batches(config.training.batch_size),
        train=train,
    )
    adapters = config.method.build().apply(given)
    if config.engine == "sharded":
        shard(adapters, layers_of(loaded.model, loaded.family), device)
    start, ranks = config.strategy.build().start, config.rank_budget.ranks()
    if start is not None:
        adapters.apply({site: round(start * ranks[site.kind]) for site in adapters.sites})
    return adapters


def build_budget(config: Config) -> int:
    """Return the number of adapter parameters of the homogeneous model."""
    shapes, ranks = checkpoints.sites(config.model, config.search_space), config.rank_budget.ranks()
    unit_costs = {site: shape.unit_cost for site, shape in shapes.items()}
    return homogeneous_budget(unit_costs, {site: ranks[site.kind] for site in shapes})


def build_pools(config: Config, adapters: Adapters) -> list[Pool]:
    """Return the pools of sites that share a budget."""
    budget = config.rank_budget.ranks()
    at_budget = {site: budget[site.kind] for site in adapters.sites}
    return make_pools(config.search_space.pool, adapters.unit_costs, at_budget)


def build_search(config: Config, adapters: Adapters, task: Task, train: Encoded) -> Search | None:
    """Build what makes the searches; None for a strategy that makes none."""
    if config.proxy is None or config.selection is None:
        return None
    kind = Search if config.engine == "local" else SharedSearch
    return kind(
        adapters=adapters,
        proxy=config.proxy.build(),
        examples=train,
        pools=build_pools(config, adapters),
        selection=config.selection.build(),
        loss=task.loss,
        autocast=autocast_for(config.precision, torch.device(config.device)),
    )


def build_engine(
    config: Config, adapters: Adapters, task: Task, search: Search | None
) -> LocalEngine:
    """Build the engine that makes the steps of a run."""
    training, model = config.training, adapters.model
    optimizer = config.optimizer.build().make(adapters)
    if isinstance(adapters, Trained):
        adapters.follow(optimizer)
    if training.gradient_checkpointing:
        # Transformers 6 renames this method.
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    kind = LocalEngine if config.engine == "local" else DistributedEngine
    return kind(
        adapters,
        task,
        optimizer,
        autocast_for(config.precision, torch.device(config.device)),
        config.evaluation.batch_size,
        [search.observer.observe] if search and search.observer else [],
        compiled(model) if training.compile else None,
        training.micro_batch_size,
        training.max_grad_norm,
    )


def build_trainer(
    config: Config,
    adapters: Adapters,
    task: Task,
    splits: Mapping[str, Encoded],
    search: Search | None,
    logger: Logger,
    weights: Path | None,
    checkpoints: CheckpointManager | None,
    pause: Callable[[Callable[[], None]], object],
) -> Trainer:
    """Build the trainer of a run.

    Args:
        config: the configuration of the run.
        adapters: the adapters of the model.
        task: the task of the run.
        splits: `train` and `validation`, and `test` if there is one.
        search: makes the searches that the strategy asks for.
        logger: follows the training.
        weights: a folder for the best and the last weights; None if another process saves them.
        checkpoints: saves the state; None if another process does.
        pause: as for `Trainer`.
    """
    engine = build_engine(config, adapters, task, search)
    files = None if weights is None else WeightFiles(weights, adapters)
    trainer = Trainer(
        engine=engine,
        train=_batched(config, splits["train"]),
        validation=_evaluated(config, splits["validation"]),
        test=splits.get("test"),
        epochs=config.training.epochs,
        batch_size=config.training.batch_size,
        seed=config.seed,
        metric=task.metrics[0],
        higher_is_better=task.higher_is_better(task.metrics[0]),
        strategy=config.strategy.build(),
        search=search,
        loggers=[logger],
        max_steps=config.training.max_steps,
        patience=config.training.patience,
        log_every=config.training.log_every,
        weights=files if config.engine == "local" else SharedWeights(adapters, files),
        checkpoints=checkpoints,
        every_minutes=config.checkpoint.every_minutes,
        pause=pause,
    )
    if config.scheduler != SchedulerConfig():
        trainer.schedule = make_schedule(
            config.scheduler.name, config.scheduler.warmup, trainer.total_steps
        )
    if checkpoints is not None:
        checkpoints.stateful |= stateful({"weights": files, "trainer": trainer})
    return trainer


def _batched(config: Config, train: Encoded) -> Encoded:
    """Return the training split, batched as configured."""
    return replace(
        train,
        multiple=LENGTHS if config.training.compile else 1,
        window=WINDOW if config.training.group_by_length else None,
    )


def _evaluated(config: Config, validation: Encoded) -> dict[str, Encoded]:
    """Return the evaluated splits by the prefix of their metrics; the one that selects has none."""
    if config.evaluation.split == "full":
        return {"": validation}
    selection, report = validation.halves()
    if not len(selection) or not len(report):
        raise DataError(
            f"evaluation.split=halves: {len(validation)} validation example cannot be split into "
            "two halves; give more examples, or set evaluation.split=full"
        )
    return {"": selection, "report_": report}
