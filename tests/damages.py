"""What can befall a file, and what a command on it may do then."""

import gzip
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]

BINARY = bytes(range(256)) * 4


def cut(share: float) -> Damage:
    """Only the first part is left."""

    def damage(file: Path) -> None:
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])

    return damage


def wrote(content: bytes) -> Damage:
    """It says something else."""
    return lambda file: file.write_bytes(content) and None


def into_folder(file: Path) -> None:
    """A folder stands in its place."""
    file.unlink()
    file.mkdir()


DAMAGES: Mapping[str, Damage] = {
    "cut at a third": cut(0.33),
    "cut near its end": cut(0.97),
    "empty": lambda file: file.write_bytes(b"") and None,
    "binary": wrote(BINARY),
    "{}": wrote(b"{}"),
    "[]": wrote(b"[]"),
    "null": wrote(b"null"),
    "a folder": into_folder,
    "removed": Path.unlink,
}

WRONG: tuple[Any, ...] = (None, 5, -1, "x", [], {}, [5], {"x": 5})


def wrong_types(file: Path) -> Iterator[tuple[str, bytes]]:
    """A JSON file, or the first line of one, with values of other types at its first two levels."""
    packed = file.suffix == ".gz"
    text = (gzip.decompress(file.read_bytes()) if packed else file.read_bytes()).decode()
    first, *rest = text.splitlines() if ".jsonl" in file.suffixes else [text]
    content = json.loads(first)
    paths = [(key,) for key in content]
    paths += [(key, sub) for key, one in content.items() if isinstance(one, dict) for sub in one]
    for path in paths:
        for value in WRONG:
            made = json.loads(first)
            node = made if len(path) == 1 else made[path[0]]
            node[path[-1]] = value
            wrong = "\n".join([json.dumps(made), *rest, ""]).encode()
            yield f"{'.'.join(path)}={value}", gzip.compress(wrong) if packed else wrong


def copied(source: Path, target: Path) -> Path:
    """A fresh copy of a folder."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target)
