"""Tasks: what a model is trained to do. Each kind lives in the file of its name."""

from heterolora.tasks.base import Examples, Metric, Task
from heterolora.tasks.causal_lm import CausalLM
from heterolora.tasks.classification import Classification
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.grouped import Grouped
from heterolora.tasks.instruction import Instruction
from heterolora.tasks.multiple_choice import MultipleChoice
from heterolora.tasks.prompted import Prompted
from heterolora.tasks.text_stream import TextStream

__all__ = [
    "CausalLM",
    "Classification",
    "Encoded",
    "Examples",
    "Grouped",
    "Instruction",
    "Metric",
    "MultipleChoice",
    "Prompted",
    "Task",
    "TextStream",
]
