"""The jobs of a sweep: each makes its runs one after another, and notes how each of them ended."""

import json
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from heterolora.errors import UserError, one_line
from heterolora.files import as_user_error, write_atomically
from heterolora.harness.cli.sweeps import slurm
from heterolora.harness.loggers.progress import PLAIN, Screen, duration, own_display
from heterolora.harness.records.record import read_json
from heterolora.harness.runs.launched import first
from heterolora.training import interrupts
from heterolora.training.signals import Stopped

if TYPE_CHECKING:
    from heterolora.training.signals import Signals
    from heterolora.training.trainer import Steps

Row = dict[str, Any]
OUTCOMES = "outcomes"
"""A folder in that of a sweep: how each run ended, by its number."""


def job(cfg: DictConfig) -> float:
    """One job of a sweep: the runs that the plan gives it, one after another.

    A run that fails ends neither the job nor the sweep: the summary tells of it.

    Returns:
        The task's first metric at the best epoch of the last run; not a number if that failed.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir)
    if "job" not in cfg:  # another sweeper than this project's: one run at a time, without a plan
        number = hydra.job.num
        row = {"overrides": " ".join(hydra.overrides.task), "label": f"run {number + 1}"}
        return _attempt(cfg, folder, number, row)
    plan = json.loads((folder / slurm.PLAN).read_text())
    metric = float("nan")
    for index in plan["jobs"][cfg.job]:
        planned = plan["runs"][index]
        cfg = prepared(planned, folder, index)
        metric = _attempt(cfg, folder, index, planned)
    return metric


def prepared(planned: Row, folder: Path, index: int) -> DictConfig:
    """The configuration of a run of a plan; a sweep runs it again at most once."""
    cfg = OmegaConf.create(planned["config"])
    assert isinstance(cfg, DictConfig)
    if cfg.rerun and begun(folder, index, planned["directory"]):
        cfg.rerun = False
    return cfg


def _attempt(cfg: DictConfig, folder: Path, index: int, planned: Row) -> float:
    """One run, alone."""
    from heterolora.training.signals import Signals
    from heterolora.training.trainer import drive

    interrupts.check()
    return drive(attempting(cfg, folder, index, planned, Signals()))


def attempting(
    cfg: DictConfig, folder: Path, index: int, planned: Row, signals: "Signals"
) -> "Steps[float]":
    """One run, but for its optimizer steps, which are yielded; and a line on how it ended."""
    from heterolora.harness.runs.processes import running  # and torch, which a summary does without

    overrides, screen = planned["overrides"], Screen(own_display(), planned["label"])
    try:
        outcome = yield from running(cfg, screen, signals)
        if outcome is None:
            return float("nan")  # the first of several processes tells of the run
    except (UserError, OSError) as problem:
        interrupts.check()
        error = as_user_error(problem)
        reason = "; ".join(str(error).splitlines())
        row, metric = row_of("failed", overrides, reason, error.exit_code), float("nan")
    except Stopped as error:
        note(folder, index, row_of("failed", overrides, one_line(error), 1))
        raise
    except (KeyboardInterrupt, SystemExit) as stop:
        if first():
            note(folder, index, row_of("interrupted", overrides, interrupts.where(stop), 1))
        raise
    except Exception as error:
        interrupts.check()
        traceback.print_exc()
        reason = f"{type(error).__name__}: {one_line(error)}"
        row, metric = row_of("failed", overrides, reason, 1), float("nan")
    else:
        status = "skipped" if outcome.skipped else "finished"
        row, metric = row_of(status, str(outcome.directory), outcome.headline()), outcome.metric
    note(folder, index, row)
    label = planned["label"]
    screen.console.print(f"{label} {row['status']}: {row['said']}{so_far(folder)}", **PLAIN)
    return metric


def so_far(folder: Path) -> str:
    """How many runs of a sweep have ended, and when the rest will have; empty without a plan."""
    file = folder / slurm.PLAN
    if not file.exists():
        return ""
    plan = json.loads(file.read_text())
    ended, launched = outcomes(folder), [run for job in plan["jobs"] for run in job]
    made = sum(index in ended for index in launched)
    elapsed = time.time() - file.stat().st_mtime
    left = elapsed / made * (len(launched) - made)
    return (
        f" ({len(ended)} of {len(plan['runs'])} runs done, elapsed {duration(elapsed)}, "
        f"left {duration(left)})"
    )


def begun(folder: Path, index: int, directory: str | None) -> bool:
    """Whether this sweep had begun a run before its job was requeued: its record is newer."""
    mark = folder / OUTCOMES / f"{index}.begun"
    record = Path(directory or "") / "run.json"
    if mark.exists():
        return record.is_file() and record.stat().st_mtime_ns > mark.stat().st_mtime_ns
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return False


def row_of(status: str, what: str, said: str, exit_code: int = 0) -> Row:
    """The line of a run in the summary, and the exit code that it asks for."""
    return {"status": status, "what": what, "said": said, "exit_code": exit_code}


def note(folder: Path, index: int, row: Row) -> None:
    """Keep how a run ended; a requeued job skips the runs that it had finished itself."""
    (folder / OUTCOMES).mkdir(parents=True, exist_ok=True)
    file = folder / OUTCOMES / f"{index}.json"
    before = read_json(file)
    if before is None or before["status"] != "finished":
        write_atomically(file, json.dumps(row))


def outcomes(folder: Path) -> dict[int, Row]:
    """How each run of a sweep ended, of those that have."""
    files = sorted((folder / OUTCOMES).glob("*.json"), key=lambda file: int(file.stem))
    return {int(file.stem): json.loads(file.read_text()) for file in files}
