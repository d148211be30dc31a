"""The composition root: a configuration becomes objects, the objects a run, the run a record."""

import logging
import os
import platform
import resource
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from heterolora import allocation, architectures, proxies, strategies
from heterolora.adapters import Inventory
from heterolora.allocation import Pool, enabled_rank, make_pools
from heterolora.architectures import Loaded, Shortcuts
from heterolora.config import Config, suggestion, validate
from heterolora.data import sources
from heterolora.data.batching import Encoded, encode
from heterolora.data.tasks import Examples, summed_loss
from heterolora.errors import ConfigError, UserError, one_line
from heterolora.proxies import Proxy, Subject
from heterolora.seeding import python_generator, use_deterministic_kernels
from heterolora.strategies import Strategy
from heterolora.strategies.search import Search
from heterolora.tracking.console import ConsoleSink, print_summary
from heterolora.tracking.provenance import provenance
from heterolora.tracking.record import Record, check_writable, read_rows, read_run, run_directory
from heterolora.tracking.sinks import Row, Sink, Sinks
from heterolora.tracking.wandb_sink import WandbSink
from heterolora.training.clock import Clock
from heterolora.training.evaluate import evaluate
from heterolora.training.loop import Progress, Training
from heterolora.training.optimizer import build_optimizer
from heterolora.training.precision import (
    autocast_for,
    device_exists,
    resolve_device,
    resolve_precision,
)

logger = logging.getLogger(__name__)

CONF = Path(__file__).parents[1] / "conf"
HYDRA_VERSION = "1.3"

RULES = (
    allocation.whole_rank,
    allocation.some_site,
    allocation.rank_for_sites,
    sources.path_exists,
    architectures.model_is_usable,
    architectures.projections_exist,
    architectures.shortcuts_fit,
    device_exists,
)


def main(cfg: DictConfig) -> float:
    """`run` for the command line: what a user can put right is a line on stderr and exit code 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        return run(cfg)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


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
    plugins = {"proxy": proxies.find, "strategy": strategies.find}
    config = validate({str(key): value for key, value in raw.items()}, plugins, RULES)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    return config.model_copy(update={"device": str(device), "precision": precision})


def run(cfg: DictConfig) -> float:
    """Train and evaluate one configuration, unless its record shows that this has been done.

    Returns:
        The task's first metric at the best epoch.

    Raises:
        UserError: for anything a user can put right; the message is one line for each problem.
    """
    config = prepare(cfg)
    console = Console()
    directory = run_directory(config)
    done = read_run(directory)
    if done is not None and done["status"] == "finished" and not config.rerun:
        console.print(
            f"already finished, not run again (rerun=true does): {directory}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
        return _conclude(console, config, done, directory)
    check_writable(Path(config.output))
    use_deterministic_kernels()
    return _conclude(console, config, _execute(config, directory, console), directory)


def _conclude(console: Console, config: Config, done: Row, directory: Path) -> float:
    print_summary(console, config, done, read_rows(directory / "allocations.jsonl"), directory)
    return float(done["best"][config.task.metrics[0]])


def _execute(config: Config, directory: Path, console: Console) -> Row:
    """Load, wire and train; returns the content of `run.json`."""
    device = torch.device(config.device)
    names = (config.task.train_split, config.task.validation_split)
    train, validation = (sources.load(config.task, name) for name in names)
    loaded = architectures.load(config.model, config.task, config.seed)
    examples, held_out = _encode(config, (train, validation), loaded, device)
    inventory, pools = _wire(config, loaded, device)
    sinks = Sinks([Record(directory, config, _origin(config, loaded, train, validation))])
    training = _training(config, inventory, pools, examples, held_out, sinks, directory)
    status, problem = "failed", None
    try:
        if config.tracking.name == "wandb":
            sinks.add(WandbSink(directory, config, console))
        sinks.add(ConsoleSink(console, config, examples.batches(config.training.batch_size)))
        training.run()
        status = "finished"
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        problem = one_line(error)
        raise
    finally:
        row = _run_row(config, training, pools, status, problem)
        sinks.close(row)
    return row


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
    inventory: Inventory,
    pools: list[Pool],
    examples: Encoded,
    held_out: Encoded,
    sink: Sink,
    directory: Path,
) -> Training:
    device = torch.device(config.device)
    loss = summed_loss(config.task)
    autocast = autocast_for(config.precision, device)
    assert isinstance(config.strategy, Strategy)
    search = None
    if config.proxy is not None:
        assert isinstance(config.proxy, Proxy)
        subject = Subject(inventory, examples, loss, config.seed, autocast)
        rng = python_generator(config.seed, "selection")
        search = Search(config.proxy, subject, pools, rng)
    return Training(
        inventory=inventory,
        examples=examples,
        loss=loss,
        optimizer=build_optimizer(inventory, config.optimizer),
        schedule=config.strategy,
        reallocate=search,
        evaluate=partial(
            evaluate,
            inventory.model,
            config.task,
            held_out,
            config.evaluation.batch_size,
            loss,
            autocast,
        ),
        autocast=autocast,
        config=config.training,
        seed=config.seed,
        sink=sink,
        clock=Clock(device),
        weights=directory / "checkpoint",
        progress=Progress(primary=config.task.metrics[0]),
    )


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
        "peak_memory_bytes": _peak_memory(torch.device(config.device)),
    }


def _origin(config: Config, loaded: Loaded, train: Examples, validation: Examples) -> Row:
    """What `provenance.json` holds."""
    splits = {"train": train, "validation": validation}
    return provenance(
        device=config.device,
        device_name=_device_name(torch.device(config.device)),
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


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's allocator, or of the process where the CPU computes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def door(main_function: Callable[[], object]) -> int:
    """Run Hydra's main function; what cannot be composed is a line on stderr and exit code 2."""
    # Hydra prints composition errors over many lines and exits with 1, unless it may raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main_function()
    except (HydraException, OmegaConfBaseException) as error:
        for line in _composition_problems(error, sys.argv[1:]):
            print(f"error: {line}", file=sys.stderr)
        return UserError.exit_code
    return 0


def _composition_problems(error: Exception, arguments: Sequence[str]) -> list[str]:
    """Every problem of the command line: of each override alone, then of the rest together."""
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    GlobalHydra.instance().clear()
    problems: list[str] = []
    sound: list[str] = []
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        for override in overrides:
            try:
                compose("config", [override])
                sound.append(override)
            except (HydraException, OmegaConfBaseException) as problem:
                if "--multirun" not in str(problem):
                    problems.append(_override_problem(override, problem))
        try:
            prepare(compose("config", sound))
        except (ConfigError, HydraException, OmegaConfBaseException) as problem:
            problems += problem.problems if isinstance(problem, ConfigError) else []
    return problems or [one_line(error)]


def _override_problem(override: str, problem: Exception) -> str:
    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    group = CONF / key
    if group.is_dir():
        files = (file.relative_to(group) for file in group.rglob("*.yaml"))
        options = [str(file.with_suffix("")) for file in files if file.parts[0] != "base"]
        return f"{key}={value}: there is no such {key}; {suggestion(value, options)}"
    if "Could not override" in str(problem):
        known = _dotted(OmegaConf.to_container(compose("config")))
        return f"{key}: unknown key; {suggestion(key, known)}"
    return f"{override}: {one_line(problem)[:200]}"


def _dotted(node: Any, prefix: str = "") -> list[str]:
    """Every key of nested dictionaries, as `group.key`."""
    if not isinstance(node, dict):
        return []
    keys = [f"{prefix}{key}" for key in node]
    return keys + [k for key, value in node.items() for k in _dotted(value, f"{prefix}{key}.")]
