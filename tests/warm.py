"""What every run does first, done once for all the processes that `children` forks.

No gradient: torch cannot compute any in a fork of a process that has.
"""

import children  # noqa: F401
import pyarrow.dataset  # noqa: F401  # as reading a table does
import torch
from conftest import composed

from heterolora.harness.config import checkpoints, plugins
from heterolora.harness.records.provenance import provenance
from heterolora.harness.runs import execute as experiment

torch.set_num_threads(1)
_CONFIG = experiment.prepare(composed("tracking=local", "device=cpu"))
_LOADED = checkpoints.load(_CONFIG.model, _CONFIG.task.build(), seed=0)
with torch.no_grad():
    _LOADED.model(torch.ones(1, 4, dtype=torch.long))
plugins.trackers()
provenance("cpu", "cpu")
