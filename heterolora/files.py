"""Files that are always complete: after a kill or on a full disk, the old content or the new."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heterolora.errors import RecordError, UserError, one_line


def write_durably(file: Path, content: bytes) -> None:
    """Write a file, and return once it is on disk."""
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_directory(directory: Path) -> None:
    """Return once the names in a directory are on disk, such as that of a file just renamed."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file so that readers see either the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    partial = file.with_name(f".{file.name}.partial")
    try:
        write_durably(partial, data)
    except OSError:
        partial.unlink(missing_ok=True)  # a partial file should not take up the disk as well
        raise
    partial.replace(file)
    sync_directory(file.parent)


FORMATS = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
"""File extensions of example files; `.json` holds JSON lines as well."""


def split_files(path: str | Path, split: str) -> list[Path]:
    """Return the files of a split, in order; none if there is no such split.

    Args:
        path: one file, which serves as any split; a folder with `<split>` or `<split>-*` in one of
            `FORMATS`; or a folder that `datasets` saved, with one split or several.
        split: the name of the split.
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
"""What to advise, by the error number of the system."""


def remedy(error: OSError) -> str:
    """Return what to do about an error of the system."""
    known = (said for numbers, said in REMEDIES.items() if error.errno in numbers)
    return next(known, "check free space and permissions")


def as_user_error(error: UserError | OSError) -> UserError:
    """Return a user error as it is, and an error of the system as a user error in one line."""
    if isinstance(error, UserError):
        return error
    place = "" if error.filename is None else f"{error.filename}: "
    return RecordError(f"{place}{error.strerror or one_line(error)}; {remedy(error)}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report in one line an error of the system, such as a full disk, while `path` is written.

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
