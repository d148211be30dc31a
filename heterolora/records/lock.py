"""One process to a run directory."""

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
    """Who has a run directory, such as `process 123 on host x`; empty if nobody has."""
    file = lock_file(directory)
    if not file.exists():
        return ""
    try:
        with FileLock(file, timeout=0, fallback_to_soft=False):
            if file.stat().st_size == 0:  # removed by its owner since it was seen, and made anew
                file.unlink()
    except Timeout:
        return _holder(file) or "another process"
    except OSError:  # of another user, for whom alone it can be tried
        return ""
    return ""


class _ReplacedError(Exception):
    """The file was removed, and perhaps made anew, after it was opened here."""


def _acquired(file: Path) -> FileLock:
    """The lock, its file naming this process."""

    def sign(descriptor: int) -> None:
        # On NFS a removed file that is open here has a link left, so its name is compared.
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
    """`process 123 on host x`; empty where the file does not say."""
    try:
        row = json.loads(file.read_bytes())
        return f"process {row['pid']} on {row['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
