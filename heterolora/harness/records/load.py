"""Load every run below a folder, from run directories and from archives."""

from pathlib import Path

from heterolora.errors import RecordError
from heterolora.harness.records import schema
from heterolora.harness.records.archive import key_of
from heterolora.harness.records.read import Run, read, read_archive


def load(folder: Path) -> tuple[list[Run], list[str]]:
    """Load every run below `folder`, finished or not: by path, then the archived ones.

    A run that is archived and also has a directory, or that is in two archives, counts once.

    Returns:
        The runs, and a line for each record that was left out because it is damaged or of another
        schema.

    Raises:
        RecordError: if there is no such folder.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: there is no such folder; name one that holds runs")
    runs: list[Run] = []
    problems = []
    for file in sorted(folder.rglob(schema.RUN)):
        try:
            runs.append(read(file.parent))
        except RecordError as error:
            problems.append(f"left out: {error}")
    seen = {key_of(run) for run in runs if run.finished}
    for file in filter(_is_old_archive, sorted(folder.rglob("*.jsonl"))):
        problems.append(
            f"left out: {file}: is an archive of an older version; put its runs back with that "
            f"version, and archive them again in a file that ends in {schema.ARCHIVE}"
        )
    for file in sorted(folder.rglob(f"*{schema.ARCHIVE}")):
        try:
            archived = [run for run in read_archive(file) if key_of(run) not in seen]
        except RecordError as error:
            problems.append(f"left out: {error}")
        else:
            seen.update(map(key_of, archived))
            runs += archived
    return runs, problems


def _is_old_archive(file: Path) -> bool:
    if file.name in (schema.METRICS, schema.ALLOCATIONS, schema.IMPORTANCE) or not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(12).startswith(b'{"archive":')
