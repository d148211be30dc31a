"""The sweeper: plans every run of the grids, launches what is missing, and tells how each ended."""

import itertools
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from heterolora.errors import ConfigError, RecordError, UserError, one_line, shown
from heterolora.files import remedy, write_atomically
from heterolora.harness.cli.run.compose import check_overrides, composition_problems
from heterolora.harness.cli.sweeps import slurm
from heterolora.harness.cli.sweeps.jobs import Row, note, outcomes, row_of
from heterolora.harness.cli.sweeps.summary import differing, show_plan, stopped, summarize
from heterolora.harness.loggers.console import headline
from heterolora.harness.loggers.progress import Screen, counted, own_display
from heterolora.harness.paths import INSTALLED
from heterolora.harness.records import source
from heterolora.harness.records.lock import holder
from heterolora.harness.records.record import check_writable, finished
from heterolora.training import interrupts

CLUSTER = "SlurmLauncher"
WAITING = (
    " while waiting for SLURM; submitted jobs continue, and the same command shows their state"
)
"""What to say of a sweep that is interrupted there."""


@dataclass(frozen=True)
class Sweep:
    """All runs of a command line.

    Attributes:
        config: as Hydra composed it for the sweep as a whole, its own node included.
        loader: Hydra's.
        launcher: makes the jobs.
        max_batch_size: how many jobs are launched at once at most.
    """

    config: DictConfig
    loader: ConfigLoader
    launcher: Launcher
    max_batch_size: int | None

    def make(self, arguments: Sequence[str]) -> None:
        """Plan, launch, and print a line for each run.

        On a cluster the jobs run the source as it is now: this process starts again from a copy.

        Args:
            arguments: the overrides of the command line, but for those of Hydra itself.

        Raises:
            UserError: if it cannot be planned.
            SystemExit: with the exit code of the worst run, if one failed.
        """
        folder = Path(self.config.hydra.sweep.dir).absolute()
        check_writable(Path(self.config.output))
        if self._on_cluster:
            _start_from_copy(Path(self.config.output))
        self._check()
        display = own_display()
        combinations = swept(self.loader, self.config.hydra.sweeper, arguments)
        with display.live():
            screen = Screen(display)
            planning = f"planning {counted(len(combinations), 'run')}"
            screen.say(f"{planning}; records will be in {self.config.output}")
            screen.doing(planning)
            # All of them first: a mistake in one is told before the others take their time.
            runs = _planned(combinations, [*composed(self.loader, self.config, combinations)])
            try:
                jobs = self._plan(runs, folder)
            except OSError as error:
                raise RecordError(
                    f"hydra.sweep.dir={folder}: cannot be written ({one_line(error)}); "
                    f"{remedy(error)}"
                ) from error
            screen.close()
        show_plan(display.console, runs, outcomes(folder), runs[0]["config"]["output"])
        launched = self._launched(jobs, folder, len(runs))
        code = summarize(display.console, folder) or int(not launched)
        if code:
            raise SystemExit(code)

    def _launched(self, jobs: Sequence[Sequence[int]], folder: Path, total: int) -> bool:
        """Whether all jobs of all batches came back."""
        shown = (
            nullcontext()  # workers write to the terminal themselves
            if getattr(self.launcher, "in_workers", False)
            else own_display().sweep(total, lambda: len(outcomes(folder)))
        )
        interrupts.unwind()
        try:
            with shown:
                came = [self._launch(batch, folder) for batch in jobs]
        except (KeyboardInterrupt, SystemExit) as stop:
            stop.add_note(WAITING if self._on_cluster else stopped(folder))
            raise
        return all(came)

    @property
    def _on_cluster(self) -> bool:
        return str(self.config.hydra.launcher._target_).endswith(CLUSTER)

    def _plan(self, runs: list[Row], folder: Path) -> list[list[int]]:
        """Write the plan; returns the numbers of its jobs, batch by batch."""
        queued = {}
        if self._on_cluster:
            _check_for_cluster(runs)
            queued = slurm.submitted(folder.parent)
        known = {index: _known(run, queued) for index, run in enumerate(runs)}
        missing = [index for index, row in known.items() if row is None]
        jobs = slurm.cut(missing, self.config.runs_per_job)
        size = self._batch_size(len(jobs))
        for index, row in known.items():
            if row is not None:
                note(folder, index, row)
        folder.mkdir(parents=True, exist_ok=True)
        plan = {"runs": runs, "jobs": jobs, "batch": size}
        write_atomically(folder / slurm.PLAN, json.dumps(plan))
        return slurm.cut(range(len(jobs)), size)

    def _check(self) -> None:
        """What says how runs are dealt to jobs.

        Raises:
            ConfigError: with every number that is none.
        """
        from heterolora.harness.config import changes  # and pydantic, which --help does without

        problems = changes(OmegaConf.masked_copy(self.config, "runs_per_job"), ["runs_per_job"])
        size = self.max_batch_size
        if size is not None and (not isinstance(size, int) or size < 1):
            problems.append(
                f"hydra.sweeper.max_batch_size={shown(size)}: must be a whole number greater than "
                "0; for example hydra.sweeper.max_batch_size=1000"
            )
        if problems:
            raise ConfigError(problems)

    def _batch_size(self, jobs: int) -> int:
        return min(self.max_batch_size or jobs, jobs) or 1

    def _launch(self, jobs: Sequence[int], folder: Path) -> bool:
        """Whether all jobs of a batch came back; how their runs ended, they note themselves."""
        quoted = str(folder).replace("'", r"\'")
        overrides = [[f"+job={index}", f"hydra.sweep.dir='{quoted}'"] for index in jobs]
        try:
            for result in self.launcher.launch(overrides, initial_job_idx=jobs[0]):
                _ = result.return_value  # raises what the job raised
        except Exception:
            # The launcher raises at the first job that the cluster lost; the others go on.
            traceback.print_exc()
            slurm.wait_for(folder)
            return False
        return True


def swept(loader: ConfigLoader, sweeper: DictConfig, arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of every run of a sweep, grid after grid.

    An argument takes the place of a parameter of the same name, and is added to grids without it.

    Raises:
        ConfigError: if grids or arguments cannot be swept.
    """
    check_overrides(arguments)
    params = sweeper.get("params") or {}
    grids = OmegaConf.create([{}]) if sweeper.get("grids") is None else sweeper.grids
    if not OmegaConf.is_list(grids) or not all(map(OmegaConf.is_dict, grids)):
        raise ConfigError(
            [
                f"hydra.sweeper.grids={grids}: must be a list of mappings from parameters to "
                "values; for example hydra.sweeper.grids=[{seed:'0,13'}]"
            ]
        )
    combinations = []
    for grid in grids:
        own = [f"{key}={_value(value)}" for key, value in {**params, **grid}.items()]
        check_overrides(own)
        combinations += _product(loader, [*own, *arguments])
    return combinations


def _value(value: object) -> object:
    return "null" if value is None else value


def _product(loader: ConfigLoader, arguments: list[str]) -> list[list[str]]:
    """Every combination of the arguments' values."""
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(loader).parse_overrides(arguments):
        key = override.get_key_element()
        if not override.is_sweep_override():
            assert override.input_line is not None
            values[key] = [override.input_line]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            if not values[key]:
                raise ConfigError([f"{override.input_line}: has no values; list them: {key}=1,2,3"])
        else:
            raise ConfigError(
                [f"{override.input_line}: is an infinite sweep; list its values: {key}=1,2,3"]
            )
    return [list(combination) for combination in itertools.product(*values.values())]


def composed(
    loader: ConfigLoader, config: DictConfig, combinations: Sequence[Sequence[str]]
) -> Iterator[tuple[str, DictConfig]]:
    """The overrides and the configuration of every run of a sweep.

    Args:
        loader: Hydra's.
        config: as Hydra composed it for the sweep as a whole, its own node included.
        combinations: the overrides of each run.

    Raises:
        ConfigError: for the first that cannot be composed.
    """
    for combination in combinations:
        try:
            cfg = loader.load_sweep_config(config, list(combination))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(composition_problems(error, combination)) from error
        with open_dict(cfg):
            del cfg["hydra"]
        yield " ".join(combination), cfg


def _planned(
    combinations: Sequence[Sequence[str]], runs: Sequence[tuple[str, DictConfig]]
) -> list[Row]:
    """What the plan has of each run; of those that are the same run, the first."""
    planned: dict[str, Row] = {}
    given: dict[str, Sequence[str]] = {}
    for own, (overrides, cfg) in zip(combinations, runs, strict=True):
        directory, config = _directory(cfg), OmegaConf.to_container(cfg)
        row = {"overrides": overrides, "config": config, "directory": directory}
        key = directory or json.dumps(config, sort_keys=True)
        planned.setdefault(key, row)
        given.setdefault(key, own)
    return [
        {**row, "label": f"run {number} of {len(planned)}", "differs": differs}
        for number, (row, differs) in enumerate(
            zip(planned.values(), differing([*given.values()]), strict=True), start=1
        )
    ]


def _directory(cfg: DictConfig) -> str | None:
    """Where the record of a run will be; None if it cannot be made, as the run itself will say."""
    # And torch, which takes its time: the first line of a sweep does without.
    from heterolora.harness.runs.execute import directory_of
    from heterolora.harness.runs.prepare import prepare

    # Where the precision is given, the device has no part in where the record is, and the machine
    # that plans need not have it.
    here = cfg if cfg.precision == "auto" else OmegaConf.merge(cfg, {"device": "auto"})
    assert isinstance(here, DictConfig)
    try:
        return str(directory_of(prepare(here)))
    except UserError:
        return None


def _check_for_cluster(runs: Sequence[Row]) -> None:
    """Refuse what each node would settle for itself, and what a job cannot do.

    Raises:
        ConfigError: if there is either.
    """
    if any(run["config"]["precision"] == "auto" for run in runs):
        raise ConfigError(
            [
                "precision=auto: would be decided by each node, so finished runs cannot be "
                "recognized here; set precision=bf16 or precision=fp32"
            ]
        )
    for config in (run["config"] for run in runs):
        if (engine := config.get("engine", "local")) != "local" and config["runs_per_job"] > 1:
            raise ConfigError(
                [
                    f"runs_per_job={config['runs_per_job']}: the processes of engine={engine} "
                    "train only one run per job; set runs_per_job=1"
                ]
            )


def _known(run: Row, queued: Mapping[str, str]) -> Row | None:
    """The summary's line of a run that is finished or under way; None of one to be launched."""
    if run["directory"] is None:
        return None
    directory = Path(run["directory"])
    try:
        done = None if run["config"]["rerun"] else finished(directory)
    except RecordError:
        done = None  # the run itself says what is wrong with its record
    if done is not None:
        return row_of("skipped", str(directory), headline(done))
    if process := holder(directory):
        return row_of("running", str(directory), process)
    if task := queued.get(str(directory)):
        return row_of("queued", str(directory), f"SLURM job {task}")
    return None


def _start_from_copy(output: Path) -> None:
    """Go on in a copy of the source, unless this is one, or there is no source to be edited."""
    if INSTALLED or source.is_copy():
        return
    copy = source.keep(output.absolute() / ".sweeps" / "source")
    paths = [str(copy), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Jobs inherit both: what is imported is the copy, wherever they are started.
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    script = [sys.executable, str(copy / "train.py"), *sys.argv[1:]]
    os.execve(sys.executable, script, {**os.environ, **environment})
