"""Read files of examples as columns: parquet, CSV, TSV, JSON lines, and saved `datasets`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heterolora.errors import DataError, one_line
from heterolora.files import FORMATS

if TYPE_CHECKING:
    import pyarrow as pa


def read_files(
    files: Sequence[Path], name: str, texts: Collection[str] = ()
) -> Mapping[str, Sequence[Any]]:
    """Read all columns of files of one format, concatenated.

    Args:
        files: at least one file.
        name: what to call them in an error.
        texts: the columns of a CSV or TSV file that are texts, whatever they look like.

    Raises:
        DataError: if they cannot be read.
    """
    import pyarrow as pa

    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{name}: cannot be read: there is no file {missing[0]}")
    ending = files[0].suffix.lower()
    if ending not in READERS:
        raise DataError(
            f"{name}: {files[0].name} has an unsupported format; give a file of type "
            f"{', '.join(FORMATS)}, or a folder that datasets.save_to_disk wrote"
        )
    try:
        table = pa.concat_tables([READERS[ending](file, texts) for file in files])
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        kind = NAMES.get(ending, ending.removeprefix("."))
        raise DataError(f"{name}: cannot be read as {kind}: {one_line(error)}") from error
    columns: Mapping[str, Sequence[Any]] = table.to_pydict()
    return columns


def _parquet(file: Path, texts: Collection[str]) -> "pa.Table":
    from pyarrow import parquet

    return parquet.read_table(file)


def _separated(delimiter: str) -> Callable[[Path, Collection[str]], "pa.Table"]:
    def read(file: Path, texts: Collection[str]) -> "pa.Table":
        import pyarrow as pa
        from pyarrow import csv

        return csv.read_csv(
            file,
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string())),
        )

    return read


def _json(file: Path, texts: Collection[str]) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import json

    # If the first line is null, pyarrow crashes the process.
    if not file.read_bytes()[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        raise pa.ArrowInvalid('its lines must be objects, such as {"text": "a", "label": 0}')
    return json.read_json(file)


def _arrow(file: Path, texts: Collection[str]) -> "pa.Table":
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_stream(source).read_all()


READERS: Mapping[str, Callable[[Path, Collection[str]], "pa.Table"]] = {
    ".parquet": _parquet,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".jsonl": _json,
    ".json": _json,
    ".arrow": _arrow,
}
NAMES = {".json": "JSON lines", ".jsonl": "JSON lines"}
