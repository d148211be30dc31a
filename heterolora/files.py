"""Files that are whole: after a kill or on a full disk one finds the old content or the new."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heterolora.errors import RecordError, one_line


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


def split_files(directory: str | Path, split: str) -> list[Path]:
    """The parquet files of a split: `<split>.parquet`, else `<split>-*.parquet` in order."""
    whole = Path(directory) / f"{split}.parquet"
    return [whole] if whole.is_file() else sorted(Path(directory).glob(f"{split}-*.parquet"))


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
            f"{path}: cannot be written ({one_line(error)}); check free space and permissions, "
            "then try again (an interrupted run resumes from its last checkpoint)"
        ) from error
