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
from heterolora.harness.runs import execute as run
from heterolora.harness.runs.launched import started
from heterolora.harness.runs.material import Material
from heterolora.harness.runs.prepare import prepare
from heterolora.seeding import use_deterministic_kernels
from heterolora.training.agreement import SharedSignals
from heterolora.training.memory import memory_advice
from heterolora.training.precision import matmul_precision
from heterolora.training.processes import Processes
from heterolora.training.signals import Signals
from heterolora.training.trainer import Steps, Trainer


def running(cfg: DictConfig, screen: Screen, signals: Signals) -> Steps[run.Outcome | None]:
    """`heterolora.harness.runs.execute.running`, in as many processes as the engine uses.

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
        return (yield from run.running(cfg, screen, signals))
    if count == 0:
        raise ConfigError(
            [
                f"engine={engine}: no processes were started for it; use torchrun "
                "--nproc-per-node=GPUS train.py, srun, or hydra/launcher=slurm, or set engine=local"
            ]
        )
    with _group(cfg.device) as processes:
        if processes.leads:
            return (yield from _leading(cfg, screen, processes))
        yield from _following(cfg, processes)
    return None


class Followers(run.Others):
    """The processes other than the first.

    Args:
        processes: all processes of the run.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._waiting = True
        self.hardware = {"processes": processes.size}

    def begin(self) -> None:
        """Have the others read data and model as well."""
        self._waiting = False
        self._processes.told(True)

    def align(self, trainer: Trainer) -> None:
        """Have the others continue from the state of this process's trainer."""
        self._processes.told(trainer.state_dict())

    def dismiss(self) -> None:
        """Release the others if there is nothing to run."""
        if self._waiting:
            self._processes.told(False)


def _leading(cfg: DictConfig, screen: Screen, processes: Processes) -> Steps[run.Outcome]:
    """Run in the first process."""
    followers = Followers(processes)
    try:
        signals = SharedSignals(processes)
        return (yield from run.running(cfg, screen, signals, followers))
    except BaseException as error:
        processes.fail(one_line(error))
        raise
    finally:
        followers.dismiss()


def _following(cfg: DictConfig, processes: Processes) -> Steps[None]:
    """Run in every other process."""
    try:
        if processes.told(False):
            yield from _followed(cfg, processes)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # the first process reports it
        processes.fail(one_line(error))
        if not isinstance(error, UserError):
            traceback.print_exc()
        raise SystemExit(1) from None


def _followed(cfg: DictConfig, processes: Processes) -> Steps[None]:
    logging.getLogger("heterolora").setLevel(logging.ERROR)  # the first process has warned
    config = prepare(cfg)
    use_deterministic_kernels()
    device = torch.device(config.device)
    with matmul_precision(config.training.tf32, device), memory_advice(device):
        signals = SharedSignals(processes)
        trainer = Material.read(config).trainer(Loggers(), None, None, signals)
        scores = run.scores_before(config, trainer)
        trainer.load_state_dict(processes.told({}))
        yield from trainer.steps()
        if scores:
            run.importance_after(trainer, scores)


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
