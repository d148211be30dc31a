"""Execute a run and write its record."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from heterolora.errors import one_line
from heterolora.harness.config import Config, identity
from heterolora.harness.loggers.base import Loggers, clear
from heterolora.harness.loggers.console import ConsoleLogger, stopped_at
from heterolora.harness.loggers.progress import Screen, counted, duration
from heterolora.harness.records import schema
from heterolora.harness.records.lock import lock_file, locked
from heterolora.harness.records.provenance import provenance
from heterolora.harness.records.record import Record, check_writable, finished
from heterolora.harness.records.schema import RunRecord
from heterolora.harness.runs import record_entries
from heterolora.harness.runs.importance import importance_after, scores_before
from heterolora.harness.runs.material import Material
from heterolora.harness.runs.outcome import Outcome, directory_of, run_info
from heterolora.harness.runs.prepare import prepare
from heterolora.harness.runs.signals import UNKNOWN, Standing, Stopped, signals
from heterolora.losses import Batch
from heterolora.training.checkpoint import CheckpointManager
from heterolora.training.clock import Clock
from heterolora.training.engines import LocalEngine
from heterolora.training.memory import forget_peak, memory_advice
from heterolora.training.precision import device_name, reproducible
from heterolora.training.processes import ONE_PROCESS, Processes
from heterolora.training.trainer import Trainer

logger = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass
class Run:
    """A run that is open.

    Attributes:
        config: the configuration, validated.
        directory: the run directory.
        trainer: trains it; None if it had already been finished.
        result: the content of `run.json`, once the run is finished.
        trained: whether the last step has been made.
    """

    config: Config
    directory: Path
    trainer: Trainer | None
    result: RunRecord | None = None
    trained: bool = False

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.result is not None

    @property
    def engine(self) -> LocalEngine:
        """What makes the steps."""
        assert self.trainer is not None
        assert isinstance(self.trainer.engine, LocalEngine)
        return self.trainer.engine

    @property
    def clock(self) -> Clock:
        """Adds up the seconds of the run."""
        assert self.trainer is not None
        return self.trainer.clock

    def batches(self) -> Iterator[Batch]:
        """Yield the batch of each remaining step, as `Trainer.batches` does."""
        if self.trainer is not None:
            yield from self.trainer.batches()
            self.trained = True

    def record(self, loss: Tensor) -> None:
        """Count a step that has been made, as `Trainer.record` does."""
        assert self.trainer is not None
        self.trainer.record(loss)

    def outcome(self) -> Outcome:
        """Return the outcome of a run that is finished and closed."""
        assert self.result is not None
        return Outcome(self.config, self.directory, self.result, skipped=self.trainer is None)


def run(cfg: DictConfig, screen: Screen, processes: Processes = ONE_PROCESS) -> Outcome:
    """Train and evaluate one configuration, unless its record shows that this has been done.

    Args:
        cfg: the configuration as composed by Hydra.
        screen: where progress is shown.
        processes: the processes that make the run; this one leads.

    Raises:
        UserError: for anything that a user can fix; the message has one line per problem.
    """
    signals.standing = UNKNOWN
    with closing(screen):
        screen.doing("checking the configuration")
        config = prepare(cfg)
        device = torch.device(config.device)
        with (
            reproducible(config.training.tf32, device),
            open_run(config, screen, signals.pause, processes) as opened,
        ):
            if not opened.finished:
                with signals.deferred(processes.agree):
                    for batch in opened.batches():
                        opened.record(opened.engine.step(batch))
    return opened.outcome()


@contextmanager
def open_run(
    config: Config,
    screen: Screen,
    pause: Callable[[Callable[[], None]], object],
    processes: Processes = ONE_PROCESS,
) -> Iterator[Run]:
    """Open a run: lock its directory, begin or resume its record, and build its trainer.

    However the context is left, the record then says how the run ended.

    Args:
        config: the configuration, prepared.
        screen: where progress is shown.
        pause: as for `Trainer`.
        processes: the processes that make the run; this one leads.

    Raises:
        UserError: if another process has locked it, or if something cannot be read or written.
    """
    identified = identity(config)
    directory = directory_of(config, identified)
    done = None if config.rerun else finished(directory)
    if done is None or lock_file(directory).exists():
        check_writable(Path(config.output))
        signals.unwind()
        with locked(directory):
            # The process that held the lock until now may have finished it.
            done = None if config.rerun else finished(directory)
            if done is None:
                with _recorded(config, identified, directory, screen, pause, processes) as opened:
                    yield opened
                return
            checkpoints_of(directory).discard()  # left if the run was killed before it could do so
    yield Run(config, directory, trainer=None, result=done)


@contextmanager
def _recorded(
    config: Config,
    identified: str,
    directory: Path,
    screen: Screen,
    pause: Callable[[Callable[[], None]], object],
    processes: Processes,
) -> Iterator[Run]:
    """Open the record, then the run; if anything fails in between, `run.json` says so."""
    screen.say(f"device {config.device}, precision {config.precision}, record {directory}")
    device = torch.device(config.device)
    forget_peak(device)
    manager = checkpoints_of(directory)
    resume = not config.rerun and manager.exists()
    record = _open_record(config, directory, processes, resume)
    loggers = Loggers([record])
    opened = Run(config, directory, trainer=None)
    row: Row = {"status": "failed", "error": None, "seed": config.seed}
    row["identity"] = identified
    try:
        processes.broadcast(True)  # the others read data and model as well
        screen.doing("reading data and model")
        material = Material.read(config)
        origin = record_entries.origin(config, material.loaded, material.splits)
        record.add_provenance(**origin)
        manager.facts |= record_entries.unchanging(config, identified, origin)
        manager.stateful["record"] = record
        screen.doing("preparing the training")
        trainer = material.trainer(loggers, directory / schema.CHECKPOINT, manager, pause)
        opened.trainer = trainer
        try:
            with memory_advice(device):
                scores = scores_before(config, material.task, trainer)
                resumed = _resume(record, trainer) if resume else None
                processes.broadcast(trainer.state_dict())  # from which the others continue
            _follow(config, trainer, record, loggers, screen, resumed)
            with memory_advice(device):
                yield opened
                if opened.trained and scores:
                    record.log_importance(importance_after(trainer, scores))
        finally:
            row |= record_entries.results(config, material.task, trainer)
        if opened.trained:
            row["status"] = "finished"
        else:
            row |= {"status": "interrupted", "error": "left before the last step"}
    except BaseException as problem:
        error = signals.meant(problem)
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | Stopped)
        row |= {"status": "interrupted" if stopped else "failed", "error": one_line(error)}
        if stopped:
            signals.standing = _standing(opened.trainer, manager, directory)
        if error is problem:
            raise
        raise error from None
    finally:
        loggers.close(row)
    if opened.trained:
        manager.discard()
        opened.result = RunRecord.model_validate(row)


def _open_record(config: Config, directory: Path, processes: Processes, resume: bool) -> Record:
    """Open the record of a run that begins or resumes."""
    begun = (directory / schema.RUN).exists() and not config.rerun
    now = provenance(config.device, device_name(torch.device(config.device)))
    now["hardware"] |= processes.hardware
    record = Record.open(directory, config.resolved(), now, resume)
    if not resume:
        clear(directory)
    if begun and not resume:
        logger.warning(
            "%s: no checkpoint to resume from; starting over and clearing what the run left",
            directory,
        )
    return record


def checkpoints_of(directory: Path) -> CheckpointManager:
    """Return the checkpoints from which an unfinished run resumes."""
    return CheckpointManager(directory / schema.CHECKPOINT / "resume")


def _follow(
    config: Config,
    trainer: Trainer,
    record: Record,
    loggers: Loggers,
    screen: Screen,
    resumed: int | None,
) -> None:
    """Have trackers and the screen follow the training."""
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
    shortfall = trainer.strategy.shortfall(trainer.steps_per_epoch)
    if trainer.strategy.searches and shortfall:
        logger.warning(shortfall)


def _standing(trainer: Trainer | None, manager: CheckpointManager, directory: Path) -> Standing:
    """Return where a run was interrupted, and how to continue it."""
    saved, states = manager.newest, directory / schema.CHECKPOINT / "resume"
    if trainer is None:
        return Standing(*stopped_at(0, 0, "", saved, states))
    step, length, total = trainer.progress.step, trainer.steps_per_epoch, trainer.total_steps
    epochs = -(-total // length)
    epoch = f"epoch {min(step // length + 1, epochs)} of {epochs}"
    return Standing(*stopped_at(step, total, epoch, saved, states))


def _resume(record: Record, trainer: Trainer) -> int:
    """Resume an unfinished run, restoring its record and weights; return the step."""
    assert trainer.checkpoints is not None
    step = trainer.checkpoints.load()
    assert step is not None  # `resume` implies that there are checkpoints
    record.log_resumption(step)
    return step
