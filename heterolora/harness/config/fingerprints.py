"""Fingerprints of model and data, whatever their location: digests of files, or the Hub's commit.

All are known before weights are loaded. A process reads each file once, and again only if its path,
size or modification time has changed.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from heterolora.errors import DataError, ModelError, one_line
from heterolora.files import split_files
from heterolora.harness.config import checkpoints, embedded
from heterolora.harness.config.schema import ModelConfig, TaskConfig
from heterolora.harness.network import PREFETCH, try_hub

WEIGHTS = ("*.safetensors", "*.bin")
"""Weights are read from files matching the first of these patterns that has any in a folder."""
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
"""The other files in a checkpoint's folder that affect a run's numbers."""


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of a run's model and of its two splits."""

    model: str
    train: str
    validation: str


def fingerprints(model: ModelConfig, task: TaskConfig) -> Fingerprints:
    """Compute the fingerprints of what is there now; contents count, names and locations do not.

    Raises:
        ModelError: if there is no such model.
        DataError: if there is no such dataset.
    """
    return Fingerprints(
        model=model_fingerprint(model),
        train=split_fingerprint(task, task.train_split),
        # The number of held-out examples determines which examples of the training split they are.
        validation=split_fingerprint(task, task.validation_split or task.train_split),
    )


def model_fingerprint(model: ModelConfig) -> str:
    """Return a digest of the files that are read from a folder, or the Hub's commit.

    Raises:
        ModelError: if there is no such model.
    """
    folder = checkpoints.source(model)
    if isinstance(folder, Path):
        patterns = [next((p for p in WEIGHTS if any(folder.glob(p))), WEIGHTS[0]), *OTHER_FILES]
        return _digest({file for pattern in patterns for file in folder.glob(pattern)})
    checkpoints.settings(model)  # downloads it if it is not in the cache
    file = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    if not isinstance(file, str):
        raise ModelError(f"{model.where}: is not in the hub cache; {PREFETCH}")
    return Path(file).parent.name


def split_fingerprint(task: TaskConfig, split: str) -> str:
    """Return a digest of a split's content, or the Hub's commit with the split's name.

    Raises:
        DataError: if there is no such dataset.
    """
    if task.path is not None:
        files = split_files(task.path, split)
        if not files:
            raise DataError(f"task.path={task.path}: has no file for the split {split}; add it")
        return _digest(files, named=False)
    if task.source in embedded.TASKS:
        planting = [] if task.planting is None else [str(task.planting)]
        return "/".join([_embedded_digest(task.source), *planting, split])
    commit = _commit(task.source, task.subset, task.revision)
    return "/".join(filter(None, (commit, task.subset, split)))


RECORDED = {
    "08cce94e051e7389": "21523836fe6807fa",
    "02467e7311039ea7": "c475888c1690d2b5",
}
"""The digests by which records know the first version of the embedded examples: at that time a
digest was that of the code which generates them."""


def _embedded_digest(source: str) -> str:
    """Return a digest of all that determines the examples of an embedded task."""
    digest = _digest([embedded.PAIRS], named=False)
    if source == embedded.PLANTED:
        settings = json.dumps([digest, dataclasses.asdict(embedded.TEACHER)])
        digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
    return RECORDED.get(digest, digest)


@functools.cache
def _commit(source: str, subset: str | None, revision: str | None) -> str:
    """Return the commit of a dataset on the Hub or in the cache, downloading nothing else of it."""
    import datasets

    try_hub()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()  # it would warn if the Hub is unreachable
    try:
        builder = datasets.load_dataset_builder(source, subset, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        where = "/".join(filter(None, (source, subset)))
        raise DataError(
            f"task.source={where}: is not in the cache and the hub cannot be reached "
            f"({one_line(error)[:160]}); give files on disk with task.path=PATH, or "
            f"{PREFETCH}"
        ) from error
    return str(builder.hash)


def _digest(files: Iterable[Path], named: bool = True) -> str:
    """Return sixteen hex digits of the SHA-256 of files, in the order of their names."""
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
