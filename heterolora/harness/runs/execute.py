"""Execute a run and write its record."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from heterolora.architectures import Loaded
from heterolora.errors import one_line
from heterolora.harness.config import Config, identity
from heterolora.harness.config.fingerprints import model_fingerprint
from heterolora.harness.data import sources
from heterolora.harness.loggers.base import Loggers, RunInfo, clear
from heterolora.harness.loggers.console import ConsoleLogger, headline, print_summary, stopped_at
from heterolora.harness.loggers.progress import Display, Screen, counted, duration
from heterolora.harness.records import schema
from heterolora.harness.records.lock import lock_file, locked
from heterolora.harness.records.provenance import provenance
from heterolora.harness.records.read import read_lines
from heterolora.harness.records.record import Record, check_writable, finished, run_directory
from heterolora.harness.records.schema import RunRecord
from heterolora.harness.runs.build import build_budget
from heterolora.harness.runs.material import Material
from heterolora.harness.runs.prepare import prepare
from heterolora.proxies.base import scores_of
from heterolora.seeding import use_deterministic_kernels
from heterolora.sites import Site
from heterolora.tasks import Examples
from heterolora.training import interrupts
from heterolora.training.checkpoint import CheckpointManager
from heterolora.training.importance import leave_one_out
from heterolora.training.memory import forget_peak, memory_advice, peak_memory
from heterolora.training.precision import autocast_for, device_name, matmul_precision
from heterolora.training.signals import Signals, Stopped
from heterolora.training.trainer import Steps, Trainer, drive

logger = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a configuration that was to be run.

    Attributes:
        config: the configuration, validated.
        directory: the run directory.
        result: the content of `run.json`.
        skipped: whether the run had already been finished before.
    """

    config: Config
    directory: Path
    result: RunRecord
    skipped: bool

    @property
    def metric(self) -> float:
        """The task's first metric at the best epoch."""
        assert self.result.best is not None
        return self.result.best.metrics[self.config.task.metrics[0]]

    def headline(self) -> str:
        """Return the result in a few words."""
        return headline(self.result)

    def show(self, console: Console) -> None:
        """Print the whole summary of the run."""
        if self.skipped:
            again = "already finished; use rerun=true to run it again"
            console.print(
                f"{again}: {self.directory}", soft_wrap=True, markup=False, highlight=False
            )
        searches = read_lines(self.directory / schema.ALLOCATIONS, schema.SEARCH_ROW)
        print_summary(console, run_info(self.config, self.directory), self.result, searches)


def directory_of(config: Config) -> Path:
    """Return the directory of a run's record."""
    return run_directory(
        output=config.output,
        name=config.name,
        task=config.task.name,
        strategy=arm_name(config),
        proxy=config.proxy.name if config.proxy else None,
        identity=identity(config),
        seed=config.seed,
    )


def arm_name(config: Config) -> str:
    """Return the name of a run's arm: its strategy, or its method if that does not allocate."""
    return config.strategy.name if config.method.build().allocates else config.method.name


def run_info(config: Config, directory: Path) -> RunInfo:
    """Return what loggers know of a run."""
    return RunInfo(
        directory=directory,
        name=config.name,
        task=config.task.name,
        model=config.model.path or config.model.name,
        strategy=arm_name(config),
        proxy=config.proxy.name if config.proxy else None,
        seed=config.seed,
        epochs=config.training.epochs,
        max_steps=config.training.max_steps,
        metrics=config.task.metrics,
        pool=config.search_space.pool,
        config=config.resolved(),
    )


def run(cfg: DictConfig, console: Console, label: str = "") -> Outcome:
    """Train and evaluate one configuration, unless its record shows that this has been done.

    Args:
        cfg: the configuration as composed by Hydra.
        console: where progress is shown.
        label: distinguishes this run's lines from those of others on the same console.

    Raises:
        UserError: for anything that a user can fix; the message has one line per problem.
    """
    return drive(running(cfg, Screen(Display(console), label), Signals()))


class Others:
    """The other processes of a run; in this class, there are none.

    Attributes:
        hardware: what `provenance.json` says of them.
    """

    hardware: Mapping[str, Any] = {}

    def begin(self) -> None:
        """Have the others read data and model as well."""

    def align(self, trainer: Trainer) -> None:
        """Have the others continue from the state of this process's trainer."""


ALONE = Others()


def running(
    cfg: DictConfig, screen: Screen, signals: Signals, others: Others = ALONE
) -> Steps[Outcome]:
    """`run`, except that optimizer steps are yielded, so that others can be made with them.

    Args:
        cfg: the configuration as composed by Hydra.
        screen: where progress is shown.
        signals: the signals that stop the run.
        others: the other processes that make the run.
    """
    try:
        return (yield from _running(cfg, screen, signals, others))
    finally:
        screen.close()


def _running(cfg: DictConfig, screen: Screen, signals: Signals, others: Others) -> Steps[Outcome]:
    screen.doing("checking the configuration")
    config = prepare(cfg)
    directory = directory_of(config)
    done = None if config.rerun else finished(directory)
    if done is None or lock_file(directory).exists():
        check_writable(Path(config.output))
        interrupts.unwind()
        with locked(directory):
            # The process that held the lock until now may have finished it.
            done = None if config.rerun else finished(directory)
            if done is None:
                use_deterministic_kernels()
                with matmul_precision(config.training.tf32, torch.device(config.device)):
                    result = yield from _execute(config, directory, screen, signals, others)
                return Outcome(config, directory, result, skipped=False)
            checkpoints_of(directory).discard()  # left if the run was killed before it could do so
    return Outcome(config, directory, done, skipped=True)


def _execute(
    config: Config, directory: Path, screen: Screen, signals: Signals, others: Others
) -> Steps[RunRecord]:
    """Open the record, then train; if anything fails in between, `run.json` says so."""
    screen.say(f"device {config.device}, precision {config.precision}, record {directory}")
    device = torch.device(config.device)
    forget_peak(device)
    manager = checkpoints_of(directory)
    resume = not config.rerun and manager.exists()
    begun = (directory / schema.RUN).exists() and not config.rerun
    now = provenance(config.device, device_name(device))
    now["hardware"] |= others.hardware
    record = Record.open(directory, config.resolved(), now, resume)
    if not resume:
        clear(directory)
    if begun and not resume:
        logger.warning(
            "%s: no checkpoint to resume from; starting over and clearing what the run left",
            directory,
        )
    loggers = Loggers([record])
    run: Row = {"status": "failed", "error": None, "seed": config.seed}
    run["identity"] = identity(config)
    trainer: Trainer | None = None
    try:
        others.begin()
        screen.doing("reading data and model")
        material = Material.read(config)
        origin = _origin(config, material.loaded, material.splits)
        record.add_provenance(**origin)
        manager.facts |= _facts(config, origin)
        manager.stateful["record"] = record
        weights = directory / schema.CHECKPOINT
        screen.doing("preparing the training")
        trainer = material.trainer(loggers, weights, manager, signals)
        try:
            yield from _train(config, trainer, record, loggers, screen, resume, others)
        finally:
            run |= _numbers(config, trainer)
        run["status"] = "finished"
    except BaseException as problem:
        error = interrupts.meant(problem)
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | Stopped)
        run |= {"status": "interrupted" if stopped else "failed", "error": one_line(error)}
        if stopped:
            error.add_note(f" {_where(trainer, manager, directory)}")
        if error is problem:
            raise
        raise error from None
    finally:
        loggers.close(run)
    manager.discard()
    return RunRecord.model_validate(run)


def checkpoints_of(directory: Path) -> CheckpointManager:
    """Return the checkpoints from which an unfinished run resumes."""
    return CheckpointManager(directory / schema.CHECKPOINT / "resume")


def _train(
    config: Config,
    trainer: Trainer,
    record: Record,
    loggers: Loggers,
    screen: Screen,
    resume: bool,
    others: Others,
) -> Steps[None]:
    """Restore what an earlier process saved, and train."""
    device = torch.device(config.device)
    with memory_advice(device):
        scores = scores_before(config, trainer)
        resumed = _resume(record, trainer) if resume else None
        others.align(trainer)
    info = replace(run_info(config, record.directory), resumed=resumed)
    for name, tracker in config.tracking.items():
        screen.doing(f"starting {name}")
        loggers.add(tracker.build().follow(info, screen.console))
    searches = len(trainer.searches)
    if not screen.label:  # a sweep prints enough lines
        steps = counted(trainer.total_steps, "step")
        with_searches = f" with {counted(searches, 'search', 'searches')}" if searches else ""
        screen.say(f"loaded in {duration(screen.elapsed)}; training {steps}{with_searches}")
    loggers.add(ConsoleLogger(screen, info, trainer.steps_per_epoch, searches))
    if trainer.strategy.searches and (said := trainer.strategy.shortfall(trainer.steps_per_epoch)):
        logger.warning(said)
    with memory_advice(device):
        yield from trainer.steps()
        if scores:
            record.log_importance(importance_after(trainer, scores))


def _where(trainer: Trainer | None, manager: CheckpointManager, directory: Path) -> str:
    """Say where a run was interrupted, and how to continue it."""
    saved, states = manager.newest, directory / schema.CHECKPOINT / "resume"
    if trainer is None:
        return stopped_at(0, 0, "", saved, states)
    step, length, total = trainer.progress.step, trainer.steps_per_epoch, trainer.total_steps
    of = -(-total // length)
    epoch = f"epoch {min(step // length + 1, of)} of {of}"
    return stopped_at(step, total, epoch, saved, states)


def _resume(record: Record, trainer: Trainer) -> int:
    """Resume an unfinished run, restoring its record and weights; return the step."""
    assert trainer.checkpoints is not None
    step = trainer.checkpoints.load()
    assert step is not None  # `resume` implies that there are checkpoints
    record.log_resumption(step)
    return step


def scores_before(config: Config, trainer: Trainer) -> dict[str, dict[Site, float]]:
    """Return the score of every site before training, for each proxy of `importance`."""
    proxies = {name: section.build() for name, section in config.importance.items()}
    autocast = autocast_for(config.precision, trainer.device)
    adapters, loss = trainer.engine.adapters, config.task.build().loss
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


def _numbers(config: Config, trainer: Trainer) -> Row:
    """Return the results of a run so far, and its cost, for `run.json`."""
    progress, adapters = trainer.progress, trainer.engine.adapters
    return {
        "steps": progress.step,
        "primary_metric": trainer.metric,
        "higher_is_better": trainer.higher_is_better,
        "unit": config.task.build().unit(trainer.metric),
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


def _facts(config: Config, origin: Row) -> Row:
    """Return what must not change while a run is unfinished, worded for an error message."""
    return {
        "configuration": identity(config),
        "seed": config.seed,
        "device": torch.device(config.device).type,
        "model": origin["model"]["revision"],
        "training data": origin["data"]["train"]["fingerprint"],
        "validation data": origin["data"]["validation"]["fingerprint"],
        **({"test data": origin["data"]["test"]["fingerprint"]} if config.evaluation.test else {}),
    }


def _origin(config: Config, loaded: Loaded, splits: Mapping[str, Examples]) -> Row:
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
