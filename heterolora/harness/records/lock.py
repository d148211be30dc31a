"""A lock that gives one process at a time a run directory."""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from heterolora.errors import RecordError, one_line

logger = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds to wait for the lock: a process that only checks for it holds it for an instant."""


def lock_file(directory: Path) -> Path:
    """Return the lock file, which exists while the lock is held, or after its holder was killed."""
    return directory / ".lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock on a run directory.

    The lock is the kernel's (flock; on NFS, Linux passes it to the server): it ends with its
    process or host, however they end. So nobody has to judge from afar whether a process on another
    node is still alive, as with a lock that is merely a file, and of two processes that want the
    lock, one gets it. The file's content only says who holds it.

    Raises:
        RecordError: if another process holds the lock, or if files cannot be locked here.
    """
    file = lock_file(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = _acquired(file)
    except Timeout as error:
        raise RecordError(
            f"{directory}: {_holder(file) or 'another process'} is already working on this run; "
            "wait for it, or stop it on that machine"
        ) from error
    except OSError as error:
        raise RecordError(
            f"{file}: cannot be locked ({one_line(error)}); choose another place with output=DIR"
        ) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def holder(directory: Path) -> str:
    """Return who holds the lock, such as `process 123 on host x`; empty if nobody does."""
    file = lock_file(directory)
    if not file.exists():
        return ""
    try:
        with FileLock(file, timeout=0, fallback_to_soft=False):
            if file.stat().st_size == 0:  # its owner removed it meanwhile, and we created it anew
                file.unlink()
    except Timeout:
        return _holder(file) or "another process"
    except OSError:  # it belongs to another user, and only that user can try the lock
        return ""
    return ""


class _ReplacedError(Exception):
    """The file was removed, and perhaps recreated, after it was opened here."""


def _acquired(file: Path) -> FileLock:
    """Acquire the lock, and write this process's name to its file."""

    def sign(descriptor: int) -> None:
        # Compare by name: on NFS, a removed file that is still open keeps a link.
        try:
            if not os.path.samestat(os.fstat(descriptor), file.stat()):
                raise _ReplacedError
        except FileNotFoundError:
            raise _ReplacedError from None
        if stale := _holder(file):
            logger.warning("%s: %s has ended without finishing this run", file.parent, stale)
        row = {"host": socket.gethostname(), "pid": os.getpid()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(row).encode(), 0)

    lock = FileLock(file, timeout=PATIENCE, fallback_to_soft=False, on_acquired=sign)
    while True:
        try:
            lock.acquire()
        except _ReplacedError:
            continue
        return lock


def _holder(file: Path) -> str:
    """Return `process 123 on host x`; empty if the file does not say."""
    try:
        row = json.loads(file.read_bytes())
        return f"process {row['pid']} on {row['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
