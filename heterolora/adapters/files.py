"""Adapters and head in one file, as safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from heterolora.adapters.adapters import Adapters
from heterolora.adapters.space import Space
from heterolora.errors import one_line
from heterolora.files import write_atomically

FORMAT = "1"
HEADER = {"model_type", "space", "ranks"}


def write_adapters(file: Path, adapters: Adapters, **metadata: str) -> None:
    """Write the weights by name, with what is needed to put them on a model again, atomically.

    The header has `space` and `ranks` as JSON, and `metadata`.
    """
    described = {
        "format": FORMAT,
        "model_type": adapters.model.config.model_type,
        "seed": str(adapters.seed),
        "space": json.dumps(adapters.space.to_dict()),
        "ranks": json.dumps(adapters.state_dict()["ranks"]),
        **metadata,
    }
    tensors = {
        name: tensor.detach().contiguous().cpu()
        for name, tensor in adapters.named_tensors().items()
    }
    write_atomically(file, save(tensors, described))


def read_adapters(file: Path) -> tuple[Space, dict[str, Any], Mapping[str, str]]:
    """The search space, the state for `Adapters.load_state_dict`, and the whole header.

    Raises:
        ValueError: if the file holds no adapters of this project, or is damaged.
        OSError: if it cannot be read.
    """
    try:
        with safe_open(file, "pt") as stream:
            header: dict[str, str] = stream.metadata() or {}
        if header.get("format") != FORMAT or not header.keys() >= HEADER:
            raise ValueError("it is not a file that heterolora.save wrote")
        state = {"ranks": json.loads(header["ranks"]), "tensors": load_file(file)}
        return Space(**json.loads(header["space"])), state, header
    except (SafetensorError, TypeError, AttributeError) as error:
        raise ValueError(one_line(error)) from error
