"""The running source code: its version, and copies of it for jobs that wait in a queue."""

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
"""The directory that contains this package."""

PARTS = ("train.py", "conf", "heterolora")
VERSION = "source.json"
"""In a copy: the file with the version of what was copied, since a copy is not in git."""

PACKAGE = "heterolora"
"""The part of `ROOT` that is ours if `ROOT` is a site-packages directory, not a source tree."""


def version() -> dict[str, Any]:
    """Return the `commit` of the source and whether it is `dirty`; both None outside git."""
    if is_copy():
        kept = _kept()
        return {"commit": kept["commit"], "dirty": kept["dirty"]}
    if not _is_tracked():
        return {"commit": None, "dirty": None}
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *PARTS)
    return {
        "commit": None if commit is None else commit.strip(),
        "dirty": None if status is None else bool(status),
    }


def diff() -> str:
    """Return the uncommitted changes of the source, including new files, for `git apply`."""
    if is_copy():
        return str(_kept()["diff"])
    if not _is_tracked():
        return ""
    new = (_git("ls-files", "--others", "--exclude-standard", "-z", *PARTS) or "").split("\0")
    changes = [_git("diff", "HEAD", "--binary", "--", *PARTS)]
    changes += [_git("diff", "--no-index", "--binary", "/dev/null", file) for file in new if file]
    return "".join(filter(None, changes))


def is_copy() -> bool:
    """Whether this process runs a copy made by `keep`."""
    return (ROOT / VERSION).is_file()


def keep(folder: Path) -> Path:
    """Copy the source to a subfolder of `folder` named by its content and version.

    Equal sources share a copy. A copy is complete as soon as it has its final name.
    """
    parts = PARTS if (ROOT / PARTS[0]).is_file() else (PACKAGE,)
    files = sorted(file for part in parts for file in _files(ROOT / part))
    digest = hashlib.sha256()
    digest.update(json.dumps(version()).encode())
    for file in files:
        digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    copy = folder / digest.hexdigest()[:12]
    if copy.is_dir():
        return copy
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    for file in files:
        target = partial / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    (partial / VERSION).write_text(json.dumps({**version(), "diff": diff()}))
    partial.chmod(0o755)
    try:
        partial.rename(copy)
    except OSError:  # another sweep was faster
        shutil.rmtree(partial)
    return copy


def _kept() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((ROOT / VERSION).read_text())
    return kept


def _is_tracked() -> bool:
    """Whether git tracks this package: an environment may lie inside an unrelated repository."""
    return bool(_git("ls-files", PACKAGE))


def _files(path: Path) -> list[Path]:
    files = path.rglob("*") if path.is_dir() else [path]
    return [file for file in files if file.is_file() and "__pycache__" not in file.parts]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout if done.returncode <= 1 else None  # 1: differences were found
