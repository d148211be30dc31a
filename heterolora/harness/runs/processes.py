"""A run made by several processes together: the first one leads, the others follow.

The first keeps the record, the lock, the checkpoints and the weights, and talks to loggers and to
the user. The others read data and model, start from the state that it sends them, and make their
share of every step.
"""

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from heterolora.errors import ConfigError, UserError, one_line
from heterolora.harness.loggers.base import Loggers
from heterolora.harness.loggers.progress import Screen
from heterolora.harness.runs import execute
from heterolora.harness.runs.importance import importance_after, scores_before
from heterolora.harness.runs.launched import started
from heterolora.harness.runs.material import Material
from heterolora.harness.runs.outcome import Outcome
from heterolora.harness.runs.prepare import prepare
from heterolora.harness.runs.signals import signals
from heterolora.training.memory import memory_advice
from heterolora.training.precision import reproducible
from heterolora.training.processes import Processes


def run(cfg: DictConfig, screen: Screen) -> Outcome | None:
    """`heterolora.harness.runs.execute.run`, in as many processes as the engine uses.

    Returns:
        The outcome; None in a process that followed.

    Raises:
        UserError: as there, or if processes and engine do not fit; never in a process that
            followed.
    """
    engine, count = cfg.get("engine", "local"), started()
    if engine not in ("distributed", "sharded"):
        if count > 1:
            raise ConfigError(
                [
                    f"engine={engine}: {count} processes were started for one run; set "
                    "engine=distributed, or start only one"
                ]
            )
        return execute.run(cfg, screen)
    if count == 0:
        raise ConfigError(
            [
                f"engine={engine}: no processes were started for it; use torchrun "
                "--nproc-per-node=GPUS train.py, srun, or hydra/launcher=slurm, or set engine=local"
            ]
        )
    with _group(cfg.device) as processes:
        if processes.leads:
            return _lead(cfg, screen, processes)
        _follow(cfg, processes)
    return None


def _lead(cfg: DictConfig, screen: Screen, processes: Processes) -> Outcome:
    """Run in the first process."""
    try:
        return execute.run(cfg, screen, processes)
    except BaseException as error:
        processes.fail(one_line(error))
        raise
    finally:
        processes.release()


def _follow(cfg: DictConfig, processes: Processes) -> None:
    """Run in every other process."""
    try:
        if processes.broadcast(False):
            _train(cfg, processes)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # the first process reports it
        processes.fail(one_line(error))
        if not isinstance(error, UserError):
            traceback.print_exc()
        raise SystemExit(1) from None


def _train(cfg: DictConfig, processes: Processes) -> None:
    """Train as the first process does, from the state that it sends."""
    logging.getLogger("heterolora").setLevel(logging.ERROR)  # the first process has warned
    config = prepare(cfg)
    device = torch.device(config.device)
    with reproducible(config.training.tf32, device), memory_advice(device):
        material = Material.read(config)
        trainer = material.trainer(Loggers(), None, None, signals.pause)
        scores = scores_before(config, material.task, trainer)
        trainer.load_state_dict(processes.broadcast({}))
        with signals.deferred(processes.agree):
            trainer.fit()
        if scores:
            importance_after(trainer, scores)


@contextmanager
def _group(device: str) -> Iterator[Processes]:
    """Form a group of all started processes, each with its own GPU where there are any."""
    if "RANK" not in os.environ:
        _export_slurm()
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        # A process may see all GPUs of its node, or only its own.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    yield Processes()
    dist.destroy_process_group()  # not after an error: the others may not get here


def _export_slurm() -> None:
    """Set for the tasks of a SLURM step the environment variables that torchrun sets."""
    from submitit.helpers import TorchDistributedEnvironment

    os.environ.setdefault("SUBMITIT_EXECUTOR", "slurm")  # by which submitit recognizes SLURM
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
