"""Sweeps: what is to be done is planned, given out in jobs, and told at the end, run by run."""

import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from heterolora import slurm
from heterolora.errors import ConfigError, RecordError, UserError, one_line, print_errors
from heterolora.experiment import prepare, run
from heterolora.tracking import source
from heterolora.tracking.console import PLAIN, headline
from heterolora.tracking.files import write_atomically
from heterolora.tracking.lock import holder
from heterolora.tracking.record import check_writable, read_json, read_run, run_directory
from heterolora.training.signals import Stopped

Row = dict[str, Any]
OUTCOMES = "outcomes"
"""A folder in that of a sweep: what became of each run, by its number."""

BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"
CLUSTER = "SlurmLauncher"


def job(cfg: DictConfig) -> float:
    """One job of a sweep: the runs that the plan gives it, one after another.

    What befalls a run is left for the summary: neither the job nor the sweep ends with it.

    Returns:
        The task's first metric at the best epoch of the last run; not a number if that failed.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir)
    if "job" not in cfg:  # another sweeper than Hydra's basic one asks for one run at a time
        return _attempt(cfg, folder, hydra.job.num, " ".join(hydra.overrides.task))
    plan = json.loads((folder / slurm.PLAN).read_text())
    metric = float("nan")
    for index in plan["jobs"][cfg.job]:
        planned = plan["runs"][index]
        planned_cfg = OmegaConf.create(planned["config"])
        if planned_cfg.rerun and begun(folder, index, planned["directory"]):
            planned_cfg.rerun = False
        metric = _attempt(planned_cfg, folder, index, planned["overrides"])
    return metric


def _attempt(cfg: DictConfig, folder: Path, index: int, overrides: str) -> float:
    """One run, and a line of what became of it."""
    label, console = f"#{index}", Console()
    try:
        outcome = run(cfg, console, label)
    except UserError as error:
        said = "; ".join(str(error).splitlines())
        row, metric = _row("failed", overrides, said, error.exit_code), float("nan")
    except Stopped as error:
        _note(folder, index, _row("failed", overrides, one_line(error), 1))
        raise
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {one_line(error)}"
        row, metric = _row("failed", overrides, said, 1), float("nan")
    else:
        status = "skipped" if outcome.skipped else "finished"
        row, metric = _row(status, str(outcome.directory), outcome.headline()), outcome.metric
    _note(folder, index, row)
    console.print(f"{label} {row['status']}: {row['said']}", **PLAIN)
    return metric


def begun(folder: Path, index: int, directory: str | None) -> bool:
    """Whether this sweep had begun a run before its job queued again: its record is newer."""
    mark = folder / OUTCOMES / f"{index}.begun"
    record = Path(directory or "") / "run.json"
    if mark.exists():
        return record.is_file() and record.stat().st_mtime_ns > mark.stat().st_mtime_ns
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return False


def _row(status: str, what: str, said: str, exit_code: int = 0) -> Row:
    return {"status": status, "what": what, "said": said, "exit_code": exit_code}


def _note(folder: Path, index: int, row: Row) -> None:
    """Keep what became of a run; a job that queued again skips what it had finished itself."""
    (folder / OUTCOMES).mkdir(parents=True, exist_ok=True)
    file = folder / OUTCOMES / f"{index}.json"
    before = read_json(file)
    if before is None or before["status"] != "finished":
        write_atomically(file, json.dumps(row))


class Sweep(Callback):
    """Plans a sweep before its jobs are launched, and says at its end what became of each run."""

    folder: ClassVar[Path | None] = None
    """That of the sweep under way in this process."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Compose every run, see what is done or under way, and give the rest out in jobs.

        A job gets `runs_per_job` runs. On a cluster the jobs run the source as it is now: this
        process starts again from a copy.
        """
        # Hydra makes a warning of what a callback raises, and goes on without it.
        try:
            self._plan(config)
        except HydraException:
            return  # the sweeper meets it again, and raises it to the door
        except UserError as error:
            print_errors(error)
            raise SystemExit(error.exit_code) from None
        except OSError as error:
            print_errors(RecordError(f"output={config.output}: {one_line(error)}"))
            raise SystemExit(RecordError.exit_code) from None
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None

    def _plan(self, config: DictConfig) -> None:
        on_cluster = str(config.hydra.launcher._target_).endswith(CLUSTER)
        check_writable(Path(config.output))
        if on_cluster:
            _from_a_copy(Path(config.output))
        Sweep.folder = folder = Path(config.hydra.sweep.dir).absolute()
        if config.hydra.sweeper._target_ != BASIC_SWEEPER:
            return
        runs = [_planned(*run) for run in composed(config)]
        queued = {}
        if on_cluster:
            _check_for_cluster(runs)
            queued = slurm.submitted(folder.parent)
        known = {index: _known(run, queued) for index, run in enumerate(runs)}
        jobs = slurm.cut((i for i, row in known.items() if row is None), config.runs_per_job)
        for index, row in known.items():
            if row is not None:
                _note(folder, index, row)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / slurm.PLAN, json.dumps({"runs": runs, "jobs": jobs}))
        if not jobs:
            raise SystemExit(tell(folder))
        with open_dict(config):
            config.hydra.sweeper.params = None
            config.hydra.overrides.task = [f"+job={','.join(map(str, range(len(jobs))))}"]
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
            config.hydra.sweep.dir = str(folder)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Tell, and exit as the worst of the runs."""
        code = tell(Path(config.hydra.sweep.dir))
        if code:
            raise SystemExit(code)


def _from_a_copy(output: Path) -> None:
    """Go on in a copy of the source, unless this is one."""
    if source.is_copy():
        return
    copy = source.keep(output.absolute() / ".sweeps" / "source")
    paths = [str(copy), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Jobs inherit both: what is imported is the copy, wherever they are started.
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    script = [sys.executable, str(copy / "train.py"), *sys.argv[1:]]
    os.execve(sys.executable, script, {**os.environ, **environment})


def composed(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """The overrides and the configuration of every run of a sweep.

    Args:
        config: as Hydra composed it for the sweep as a whole, its own node included.
    """
    loader = GlobalHydra.instance().config_loader()
    arguments = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    arguments += config.hydra.overrides.task
    parsed = OverridesParser.create(loader).parse_overrides(arguments)
    (combinations,) = BasicSweeper.split_arguments(parsed, None)
    for combination in combinations:
        cfg = loader.load_sweep_config(config, list(combination))
        with open_dict(cfg):
            del cfg["hydra"]
        yield " ".join(combination), cfg


def _check_for_cluster(runs: Sequence[Row]) -> None:
    """Settle here what each node would settle for itself.

    Raises:
        ConfigError: if that is left open.
    """
    if any(run["config"]["precision"] == "auto" for run in runs):
        raise ConfigError(
            [
                "precision=auto: would be settled by each node for itself, and what is finished "
                "not be known here; set precision=bf16 or precision=fp32"
            ]
        )


def _planned(overrides: str, cfg: DictConfig) -> Row:
    """What the plan has of a run: also where its record will be."""
    # Where the precision is given, the device has no part in where the record is, and the machine
    # that plans need not have it.
    here = cfg if cfg.precision == "auto" else OmegaConf.merge(cfg, {"device": "auto"})
    assert isinstance(here, DictConfig)
    try:
        directory = str(run_directory(prepare(here)))
    except ConfigError:
        directory = None  # the run itself says what is wrong with it
    return {
        "overrides": overrides,
        "config": OmegaConf.to_container(cfg),
        "directory": directory,
    }


def _known(run: Row, queued: Mapping[str, str]) -> Row | None:
    """What there is to say of a run that is finished or under way; None of one to be done."""
    if run["directory"] is None:
        return None
    directory = Path(run["directory"])
    done = read_run(directory)
    if done is not None and done["status"] == "finished" and not run["config"]["rerun"]:
        return _row("skipped", str(directory), headline(done))
    if process := holder(directory):
        return _row("running", str(directory), process)
    if task := queued.get(str(directory)):
        return _row("queued", str(directory), f"SLURM job {task}")
    return None


def tell(folder: Path) -> int:
    """Print a line for each run of a sweep, and how many there are of each kind.

    Returns:
        The exit code: 0 if none of them failed.
    """
    files = sorted((folder / OUTCOMES).glob("*.json"), key=lambda file: int(file.stem))
    rows = {int(file.stem): json.loads(file.read_text()) for file in files}
    plan = folder / slurm.PLAN
    for index, planned in enumerate(json.loads(plan.read_text())["runs"] if plan.is_file() else []):
        said = f"its job left no word; see {folder}/.submitit"
        rows.setdefault(index, _row("lost", planned["overrides"], said, 1))
    console = Console()
    console.print()
    for _, row in sorted(rows.items()):
        console.print(f"{row['status']:<8}  {row['what']}  {row['said']}", **PLAIN)
    counts = dict.fromkeys(("finished", "skipped", "failed"), 0)
    for row in rows.values():
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    if counts["failed"] or counts.get("lost"):
        console.print("the same command again does what is missing", **PLAIN)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(f"{len(rows)} runs: {told}", **PLAIN)
    return min({row["exit_code"] for row in rows.values()} - {0}, default=0)
