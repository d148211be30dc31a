"""What a model and its data are, in place of where they are: digests of files, or the hub's commit.

All is known before weights are loaded, and read once by a process: a file is read again only where
its path, size or time of change is another.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from heterolora.config import checkpoints, embedded
from heterolora.config.schema import ModelConfig, TaskConfig
from heterolora.errors import DataError, ModelError, one_line
from heterolora.files import split_files
from heterolora.network import PREFETCH, try_hub

WEIGHTS = ("*.safetensors", "*.bin")
"""Of the first of these that a folder has files of, weights are read."""
OTHER_FILES = (
    "config.json",
    "*.index.json",
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
"""What else of a checkpoint's folder shapes numbers."""


@dataclass(frozen=True)
class Fingerprints:
    """Of a run's model and of its two splits."""

    model: str
    train: str
    validation: str


def fingerprints(model: ModelConfig, task: TaskConfig) -> Fingerprints:
    """What is there now; names and places do not enter, contents do.

    Raises:
        ModelError: if there is no such model.
        DataError: if there is no such dataset.
    """
    return Fingerprints(
        model=model_fingerprint(model),
        train=split_fingerprint(task, task.train_split),
        # Which examples are held out of the training split, the number of them settles.
        validation=split_fingerprint(task, task.validation_split or task.train_split),
    )


def model_fingerprint(model: ModelConfig) -> str:
    """A digest of the files of a folder that are read, or the hub's commit.

    Raises:
        ModelError: if there is no such model.
    """
    folder = checkpoints.source(model)
    if isinstance(folder, Path):
        patterns = [next((p for p in WEIGHTS if any(folder.glob(p))), WEIGHTS[0]), *OTHER_FILES]
        return _digest({file for pattern in patterns for file in folder.glob(pattern)})
    checkpoints.settings(model)  # fetches it where it is not in the cache
    file = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    if not isinstance(file, str):
        raise ModelError(f"{model.where}: is not in the hub cache; {PREFETCH}")
    return Path(file).parent.name


def split_fingerprint(task: TaskConfig, split: str) -> str:
    """A digest of a split's files or of what generates it, or the hub's commit with its name.

    Raises:
        DataError: if there is no such dataset.
    """
    if task.path is not None:
        files = split_files(task.path, split)
        if not files:
            raise DataError(f"task.path={task.path}: has no file for the split {split}; add it")
        return _digest(files, named=False)
    if task.source in embedded.TASKS:
        code = _digest(file for name in embedded.TASKS[task.source] for file in _code(name))
        planting = [] if task.planting is None else [str(task.planting)]
        return "/".join([code, *planting, split])
    commit = _commit(task.source, task.subset, task.revision)
    return "/".join(filter(None, (commit, task.subset, split)))


def _code(package: str) -> Iterable[Path]:
    """The files of a package, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]).glob("*.py")


@functools.cache
def _commit(source: str, subset: str | None, revision: str | None) -> str:
    """The hub's, of a dataset there or in the cache; nothing else of it is fetched."""
    import datasets

    try_hub()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()  # or it warns of having no hub
    try:
        builder = datasets.load_dataset_builder(source, subset, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        where = "/".join(filter(None, (source, subset)))
        raise DataError(
            f"task.source={where}: is not in the cache and the hub cannot be reached "
            f"({one_line(error)[:160]}); give parquet files on disk with task.path=DIR, or "
            f"{PREFETCH}"
        ) from error
    return str(builder.hash)


def _digest(files: Iterable[Path], named: bool = True) -> str:
    """Sixteen hex digits of the SHA-256 of files, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(files):
        stat = file.stat()
        if named:
            digest.update(file.name.encode() + b"\0")
        digest.update(_file_digest(file.resolve(), stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()[:16]


@functools.cache
def _file_digest(file: Path, size: int, changed: int) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
