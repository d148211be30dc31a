"""What every run does first, done once for all the processes that `children` forks."""

import children  # noqa: F401
import torch
from conftest import composed

from heterolora import run as experiment
from heterolora.config import checkpoints

torch.set_num_threads(1)
_CONFIG = experiment.prepare(composed("tracking=local", "device=cpu"))
checkpoints.load(_CONFIG.model, _CONFIG.task.build(), seed=0)
