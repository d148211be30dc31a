"""The composition root: a configuration becomes objects, the objects a run, the run a record."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from heterolora import allocation, architectures, network, proxies, rules, strategies
from heterolora.adapters import Inventory
from heterolora.allocation import Pool, enabled_rank, make_pools
from heterolora.architectures import Loaded, Shortcuts
from heterolora.config import Config, Rule, validate
from heterolora.data import sources
from heterolora.data.batching import Encoded, encode
from heterolora.data.tasks import Examples, summed_loss
from heterolora.errors import ConfigError, one_line
from heterolora.proxies import Proxy, Subject
from heterolora.seeding import python_generator, use_deterministic_kernels
from heterolora.sites import Site
from heterolora.strategies import Strategy
from heterolora.strategies.search import Search
from heterolora.tracking.console import ConsoleSink, headline, print_summary
from heterolora.tracking.lock import lock_file, locked
from heterolora.tracking.provenance import provenance
from heterolora.tracking.record import Record, check_writable, read_rows, read_run, run_directory
from heterolora.tracking.sinks import Row, Sink, Sinks
from heterolora.tracking.wandb_sink import WandbSink
from heterolora.training.clock import Clock
from heterolora.training.evaluate import evaluate
from heterolora.training.importance import leave_one_out
from heterolora.training.loop import Keep, Progress, Training
from heterolora.training.memory import forget_peak, memory_advice, peak_memory
from heterolora.training.optimizer import build_optimizer
from heterolora.training.precision import (
    autocast_for,
    device_exists,
    device_name,
    resolve_device,
    resolve_precision,
)
from heterolora.training.signals import Stopped
from heterolora.training.snapshots import Snapshot, Snapshots, discard

logger = logging.getLogger(__name__)

RULES: tuple[Rule, ...] = (
    *rules.RULES,
    allocation.whole_rank,
    allocation.some_site,
    allocation.rank_for_sites,
    sources.path_exists,
    architectures.model_is_usable,
    architectures.projections_exist,
    architectures.shortcuts_fit,
    device_exists,
)


def prepare(cfg: DictConfig) -> Config:
    """Validate a composed configuration and settle what depends on the machine.

    Raises:
        ConfigError: with every problem.
    """
    try:
        raw = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([one_line(error)]) from error
    assert isinstance(raw, dict)
    if raw.get("offline") is True:
        network.stay_offline()  # before a rule asks for a model
    plugins = {"proxy": proxies.find, "strategy": strategies.find}
    config = validate({str(key): value for key, value in raw.items()}, plugins, RULES)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    return config.model_copy(update={"device": str(device), "precision": precision})


@dataclass(frozen=True)
class Outcome:
    """What became of a configuration that was asked to run.

    Attributes:
        config: the configuration, validated.
        directory: the run's.
        row: the content of `run.json`.
        skipped: it had been finished before.
    """

    config: Config
    directory: Path
    row: Row
    skipped: bool

    @property
    def metric(self) -> float:
        """The task's first metric at the best epoch."""
        return float(self.row["best"][self.config.task.metrics[0]])

    def headline(self) -> str:
        """The result in a few words."""
        return headline(self.row)

    def show(self, console: Console) -> None:
        """Print the whole summary of the run."""
        if self.skipped:
            again = "already finished, not run again (rerun=true does)"
            console.print(
                f"{again}: {self.directory}", soft_wrap=True, markup=False, highlight=False
            )
        searches = read_rows(self.directory / "allocations.jsonl")
        print_summary(console, self.config, self.row, searches, self.directory)


def run(cfg: DictConfig, console: Console, label: str = "") -> Outcome:
    """Train and evaluate one configuration, unless its record shows that this has been done.

    Args:
        cfg: as Hydra composed it.
        console: where progress is shown.
        label: what tells this run's lines from those of others on the same console.

    Raises:
        UserError: for anything a user can put right; the message is one line for each problem.
    """
    config = prepare(cfg)
    directory = run_directory(config)
    done = _finished(config, directory)
    if done is None or lock_file(directory).exists():
        check_writable(Path(config.output))
        with locked(directory):
            done = _finished(config, directory)  # perhaps by who had the lock until now
            if done is None:
                use_deterministic_kernels()
                row = _execute(config, directory, console, label)
                return Outcome(config, directory, row, skipped=False)
            discard(directory)  # for one that was killed before it could
    return Outcome(config, directory, done, skipped=True)


def _finished(config: Config, directory: Path) -> Row | None:
    """The content of `run.json` of a run that need not be run again."""
    done = read_run(directory)
    if done is None or done["status"] != "finished" or config.rerun:
        return None
    return done


def _execute(config: Config, directory: Path, console: Console, label: str) -> Row:
    """Load, wire, take up what an earlier process left, and train; the content of `run.json`."""
    device = torch.device(config.device)
    forget_peak(device)
    names = (config.task.train_split, config.task.validation_split)
    train, validation = (sources.load(config.task, name) for name in names)
    loaded = architectures.load(config.model, config.task, config.seed)
    examples, held_out = _encode(config, (train, validation), loaded, device)
    with memory_advice(device):
        inventory, pools = _wire(config, loaded, device)
    subject = Subject(
        inventory,
        examples,
        summed_loss(config.task),
        config.seed,
        autocast_for(config.precision, device),
    )
    origin = _origin(config, loaded, train, validation)
    snapshots = Snapshots(directory, _facts(config, origin))
    resumed = _resumed(config, directory, snapshots)
    record = Record(directory, config, origin, resumed.point if resumed else None)
    sinks = Sinks([record])
    keep = partial(snapshots.save, record.lengths)
    training = _training(config, subject, pools, held_out, sinks, directory, keep, resumed)
    status, problem = "failed", None
    try:
        if config.tracking.name == "wandb":
            sinks.add(WandbSink(directory, config, console))
        steps = examples.batches(config.training.batch_size)
        begun = resumed.point.step if resumed else None
        sinks.add(ConsoleSink(console, config, steps, label, begun))
        with memory_advice(device):
            scores = _scores(config, subject)
            training.run()
            if scores:
                record.importance(_importance(training, scores))
        status = "finished"
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | Stopped)
        status = "interrupted" if stopped else "failed"
        problem = one_line(error)
        raise
    finally:
        row = _run_row(config, training, pools, status, problem)
        sinks.close(row)
    discard(directory)
    return row


def _facts(config: Config, origin: Row) -> Row:
    """What a run cannot change between its start and the end, in the words of an error."""
    return {
        "configuration": config.identity(),
        "seed": config.seed,
        "device": torch.device(config.device).type,
        "model": origin["model"]["revision"],
        "training data": origin["data"]["train"]["fingerprint"],
        "validation data": origin["data"]["validation"]["fingerprint"],
    }


def _resumed(config: Config, directory: Path, snapshots: Snapshots) -> Snapshot | None:
    """Where an unfinished run was, its best and last weights put back; None to start over."""
    snapshot = None if config.rerun else snapshots.newest()
    if snapshot is not None:
        snapshots.reinstate(snapshot)
    elif read_run(directory) is not None and not config.rerun:
        logger.warning("%s: the run left no checkpoint to go on from; it starts over", directory)
    return snapshot


def _encode(
    config: Config, splits: tuple[Examples, ...], loaded: Loaded, device: torch.device
) -> list[Encoded]:
    encoded = [
        encode(config.task, split, loaded.tokenizer, loaded.positions, device) for split in splits
    ]
    truncated = sum(split.truncated for split in encoded)
    if truncated:
        logger.warning(
            "%d of %d examples are longer than the model's %d positions and were truncated",
            truncated,
            sum(map(len, encoded)),
            loaded.positions,
        )
    return encoded


def _wire(config: Config, loaded: Loaded, device: torch.device) -> tuple[Inventory, list[Pool]]:
    """Put adapters on the model; returns their inventory, and which of them share a budget."""
    space, budget = config.search_space, config.rank_budget.ranks()
    ranks: dict[str, int] = {}
    for kind, roles in space.roles().items():
        rank = enabled_rank(budget[kind], config.strategy.enable_rate)
        assert rank is not None
        ranks |= dict.fromkeys(roles, rank)
    inventory = architectures.wire(
        loaded.model.to(device),
        loaded.family,
        {role: ranks[role] for role in space.projections},
        space.lora_alpha,
        config.seed,
        loaded.head,
        Shortcuts(
            {role: ranks[role] for role in space.shortcuts},
            space.shortcut_alpha,
            space.renormalize,
        ),
    )
    at_budget = {site: budget[site.kind] for site in inventory.sites}
    return inventory, make_pools(space.pool, inventory.unit_costs(), at_budget)


def _training(
    config: Config,
    subject: Subject,
    pools: list[Pool],
    held_out: Encoded,
    sink: Sink,
    directory: Path,
    keep: Keep,
    resumed: Snapshot | None,
) -> Training:
    assert isinstance(config.strategy, Strategy)
    selection = python_generator(config.seed, "selection")
    search = None
    if config.proxy is not None:
        assert isinstance(config.proxy, Proxy)
        search = Search(config.proxy, subject, pools, selection)
    return Training(
        inventory=subject.inventory,
        examples=subject.examples,
        loss=subject.loss,
        optimizer=build_optimizer(subject.inventory, config.optimizer),
        schedule=config.strategy,
        reallocate=search,
        evaluate=partial(_measure, config, subject, _parts(config, held_out)),
        autocast=subject.autocast,
        config=config.training,
        seed=config.seed,
        sink=sink,
        clock=Clock(torch.device(config.device)),
        weights=directory / "checkpoint",
        progress=Progress(primary=config.task.metrics[0]),
        selection=selection,
        keep=keep,
        every_minutes=config.checkpoint.every_minutes,
        resumed=resumed,
    )


def _parts(config: Config, held_out: Encoded) -> dict[str, Encoded]:
    """What is evaluated, by the prefix of its metrics: what selects has none."""
    if config.evaluation.split == "full":
        return {"": held_out}
    selection, report = held_out.halves()
    return {"": selection, "report_": report}


def _measure(config: Config, subject: Subject, parts: dict[str, Encoded]) -> dict[str, float]:
    return {
        f"{prefix}{name}": value
        for prefix, part in parts.items()
        for name, value in evaluate(
            subject.inventory.model,
            config.task,
            part,
            config.evaluation.batch_size,
            subject.loss,
            subject.autocast,
        ).items()
    }


def _scores(config: Config, subject: Subject) -> dict[str, dict[Site, float]]:
    """What each proxy of `importance` says of every site before training."""
    scores = {}
    for name, proxy in config.importance.items():
        assert isinstance(proxy, Proxy)
        scores[name] = proxy.scores(subject)
    return scores


def _importance(training: Training, scores: dict[str, dict[Site, float]]) -> list[Row]:
    """What each site is worth after training, beside what the proxies said of it before."""
    said = {
        str(site): {name: by_site[site] for name, by_site in scores.items()}
        for site in training.inventory.sites
    }
    left_out = leave_one_out(training.inventory, training.evaluate, training.progress.primary)
    return [{**row, "scores": said[row["site"]]} for row in left_out]


def _run_row(
    config: Config, training: Training, pools: list[Pool], status: str, problem: str | None
) -> Row:
    """The content of `run.json`."""
    progress, inventory = training.progress, training.inventory
    return {
        "status": status,
        "error": problem,
        "seed": config.seed,
        "identity": config.identity(),
        "steps": progress.step,
        "primary_metric": progress.primary,
        "best": progress.best,
        "last": progress.last,
        "parameters": {
            "budget": sum(pool.budget for pool in pools),
            "enabled": inventory.enabled_count(),
            "sites": len(inventory.sites),
            "sites_enabled": len(inventory.enabled),
            "head": inventory.head_count(),
        },
        "seconds": {name: round(value, 3) for name, value in training.clock.seconds.items()},
        "peak_memory_bytes": peak_memory(torch.device(config.device)),
    }


def _origin(config: Config, loaded: Loaded, train: Examples, validation: Examples) -> Row:
    """What `provenance.json` holds."""
    splits = {"train": train, "validation": validation}
    return provenance(
        device=config.device,
        device_name=device_name(torch.device(config.device)),
        model={
            "name": config.model.name,
            "path": config.model.path,
            "revision": loaded.revision,
        },
        data={
            "task": config.task.name,
            "source": config.task.source,
            "path": config.task.path,
            **{
                name: {"rows": len(split), "fingerprint": split.fingerprint()}
                for name, split in splits.items()
            },
        },
    )
