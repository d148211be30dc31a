"""One process to a run directory."""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heterolora.errors import RecordError, one_line

logger = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds: who only looks whether there is a lock has it for an instant."""


def lock_file(directory: Path) -> Path:
    """The file in a run directory that is there while someone has it, or was killed having it."""
    return directory / ".lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Have a run directory alone.

    The lock is the kernel's (flock; on NFS Linux makes it the server's): it ends with its process
    or its host, however they end. Nobody has to judge from afar whether a process of another node
    still lives, as with a file that stands for a lock, and of two that want it one gets it. The
    file's content only says whom to look for.

    Raises:
        RecordError: if another process has it, or if files cannot be locked here.
    """
    file = lock_file(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(file)
    except OSError as error:
        raise RecordError(
            f"{file}: cannot be locked ({one_line(error)}); choose another place with output=DIR"
        ) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)


def holder(directory: Path) -> str:
    """Who has a run directory, such as `process 123 on host x`; empty if nobody has."""
    try:
        descriptor = os.open(lock_file(directory), os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return _holder(descriptor) or "another process"
    finally:
        os.close(descriptor)
    return ""


def _acquire(file: Path) -> int:
    """The descriptor of the locked file, which names this process."""
    deadline = time.monotonic() + PATIENCE
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, file):
                _sign(descriptor, file)
                return descriptor
        except (BlockingIOError, PermissionError) as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if time.monotonic() < deadline:
                time.sleep(PATIENCE / 10)
                continue
            raise RecordError(
                f"{file.parent}: {holder or 'another process'} is at work on this run; wait for "
                "it, or end it there"
            ) from error
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner removed the file after it was opened here


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int, file: Path) -> None:
    """Say who has the lock; and who had it, if that one could not say goodbye."""
    if stale := _holder(descriptor):
        logger.warning("%s: %s has ended without finishing this run", file.parent, stale)
    os.ftruncate(descriptor, 0)
    row = {"host": socket.gethostname(), "pid": os.getpid()}
    os.pwrite(descriptor, json.dumps(row).encode(), 0)


def _holder(descriptor: int) -> str:
    """`process 123 on host x`; empty where the file does not say."""
    try:
        row = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {row['pid']} on {row['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
