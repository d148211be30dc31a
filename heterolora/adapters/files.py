"""Read and write adapters and task head as one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from heterolora.adapters.adapters import Adapters
from heterolora.adapters.space import Space
from heterolora.errors import one_line
from heterolora.files import write_atomically

FORMAT = "1"
HEADER = {"model_type", "space", "ranks"}


def write_adapters(file: Path, adapters: Adapters, **metadata: str) -> None:
    """Atomically write the weights by name, and what is needed to put them on a model again.

    The header holds `space` and `ranks` as JSON, and the items of `metadata`.
    """
    _write(file, adapters.named_tensors(), described(adapters) | metadata)


def write_enabled(file: Path, adapters: Adapters) -> None:
    """Write only what is on: the model is `W x + scaling B A x` at each site in the file.

    A is (rank, in_features) and B (out_features, rank). In addition to what `write_adapters` puts
    there, the header holds the factors by site as JSON, under `scaling`.
    """
    ranks = {site: rank for site, rank in adapters.ranks.items() if rank}
    scaling = {str(site): adapters.space.scaling_of(site)(rank) for site, rank in ranks.items()}
    tensors: dict[str, Tensor] = {f"head.{name}": one for name, one in adapters.head.items()}
    for site, rank in ranks.items():
        tensors[f"{site}.A"] = adapters[site].A[:rank]
        tensors[f"{site}.B"] = adapters[site].B[:, :rank]
    _write(file, tensors, described(adapters) | {"scaling": json.dumps(scaling)})


def described(adapters: Adapters) -> dict[str, str]:
    """Return the metadata needed to put the weights on a model again."""
    return {
        "format": FORMAT,
        "model_type": adapters.model.config.model_type,
        "seed": str(adapters.seed),
        "space": json.dumps(adapters.space.to_dict()),
        "ranks": json.dumps(adapters.state_dict()["ranks"]),
    }


def _write(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    write_atomically(file, save(whole, dict(header)))


def read_adapters(file: Path) -> tuple[Space, dict[str, Any], Mapping[str, str]]:
    """Read the search space, the ranks and tensors, and the whole header.

    If `write_adapters` wrote the file, ranks and tensors make up a state for
    `Adapters.load_state_dict`.

    Raises:
        ValueError: if the file does not hold adapters of this project, or is damaged.
        OSError: if the file cannot be read.
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
