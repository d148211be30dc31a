"""Files that are whole: after a kill or on a full disk one finds the old content or the new."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heterolora.errors import RecordError, UserError, one_line


def write_durably(file: Path, content: bytes) -> None:
    """Write a file, and return when the disk has it."""
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_directory(directory: Path) -> None:
    """Return when the disk has the names in a directory, such as that of a file just renamed."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file such that readers see the old content or the new, and never a part."""
    data = content.encode() if isinstance(content, str) else content
    partial = file.with_name(f".{file.name}.partial")
    try:
        write_durably(partial, data)
    except OSError:
        partial.unlink(missing_ok=True)  # what did not fit should not fill the disk as well
        raise
    partial.replace(file)
    sync_directory(file.parent)


FORMATS = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
"""The endings of files of examples; `.json` holds JSON lines as well."""


def split_files(path: str | Path, split: str) -> list[Path]:
    """The files of a split, in order; none where there is no such split.

    Args:
        path: one file, which is whatever split is asked for; a folder with `<split>` or `<split>-*`
            in one of `FORMATS`; or one that `datasets` saved, of one split or of several.
        split: its name.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    for ending in FORMATS:
        whole = path / f"{split}{ending}"
        if found := [whole] if whole.is_file() else sorted(path.glob(f"{split}-*{ending}")):
            return found
    saved = path / split if (path / "dataset_dict.json").is_file() else path
    return sorted(saved.glob("data-*.arrow"))


REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free some space, or raise the limit",
    (errno.EACCES, errno.EPERM): "set its permissions, or choose another place",
    (errno.EROFS,): "have it mounted for writing, or choose another place",
    (errno.EMFILE, errno.ENFILE): "raise the limit of open files, for example with ulimit -n 4096",
    (errno.ENAMETOOLONG,): "choose a shorter name",
    (errno.ESTALE, errno.EIO, errno.ETIMEDOUT): "check that the file system is mounted",
    (errno.ENOMEM,): "free some memory",
    (errno.EEXIST, errno.ENOTDIR, errno.EISDIR): "move what is there, or choose another place",
}
"""By the number of what the system refused."""


def remedy(error: OSError) -> str:
    """What to do about what the system refused."""
    known = (said for numbers, said in REMEDIES.items() if error.errno in numbers)
    return next(known, "check free space and permissions")


def as_user_error(error: UserError | OSError) -> UserError:
    """The error itself; what the system refused, wherever that was, in one line."""
    if isinstance(error, UserError):
        return error
    place = "" if error.filename is None else f"{error.filename}: "
    return RecordError(f"{place}{error.strerror or one_line(error)}; {remedy(error)}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses while `path` is written inside, such as a full disk, in one line.

    Raises:
        RecordError: with the remedy.
    """
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be written ({one_line(error)}); {remedy(error)}, then try again (an "
            "interrupted run resumes from its last checkpoint)"
        ) from error
