"""Types of values in the configuration, used by all sections."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

WHOLE = 2**31 - 1
"""The largest whole number of a setting: libraries use 32-bit integers."""
SMALLEST, LARGEST = 1.2e-38, 3.4e38
"""The range of float32, except for zero."""


def _rank(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a valid integer, or a part of a rank between 0 and 1")
    if value < 0:
        raise ValueError("must be greater than or equal to 0")
    if value > WHOLE:
        raise ValueError(f"must be less than or equal to {WHOLE}")
    if isinstance(value, float) and not 0 < value < 1:
        raise ValueError("must be a valid integer, or a part of a rank between 0 and 1")
    return value


Rank = Annotated[
    int | float, PlainValidator(_rank), WithJsonSchema({"type": "number", "minimum": 0})
]
"""A whole number, or a fraction of one rank per site; zero for a kind of site that the search space
lacks."""


def _in_32_bits(value: int) -> int:
    if abs(value) > WHOLE:
        raise ValueError(f"must be at most {WHOLE} in size")
    return value


Whole = Annotated[int, Field(strict=True), AfterValidator(_in_32_bits)]
"""A whole number; `true` is not one."""
PositiveInt = Annotated[Whole, Field(gt=0)]


def _in_float32(value: float) -> float:
    if value and not SMALLEST <= abs(value) <= LARGEST:
        raise ValueError(f"must be 0 or from {SMALLEST:g} to {LARGEST:g} in size, as float32 is")
    return value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False), AfterValidator(_in_float32)]
"""A number that training can compute with; `true` is not one."""
PositiveNumber = Annotated[Number, Field(gt=0)]
_PART = r"[A-Za-z0-9][\w.-]{0,99}"
NAME, NAMES = f"^{_PART}$", f"^{_PART}(/{_PART})*$"
"""A name that is safe as a folder name and cannot lead out of one; and several such, nested."""
DEVICE = r"^(auto|cpu|cuda(:\d{1,3})?|mps)$"
SPLIT = r"^[^/\\*?]{1,200}$"
"""The name of a file in a folder, which cannot lead out of it, or of a split on the Hub."""
PATTERNS = {
    NAME: "must be a name of up to 100 letters, digits, and . _ - after the first",
    NAMES: "must be names of up to 100 letters, digits, and . _ - after the first, separated by /",
    DEVICE: "must be auto, cpu, cuda, cuda:NUMBER or mps",
    SPLIT: "must be the name of a split, without / \\ * ? and of up to 200 characters",
}
"""The patterns in words."""


def _place(value: str) -> str:
    if "\0" in value or any(len(part.encode()) > 255 for part in value.split("/")):
        raise ValueError("must be a name or path whose parts have at most 255 bytes")
    return value


Text = Annotated[str, Field(min_length=1)]
Place = Annotated[Text, AfterValidator(_place)]
Name = Annotated[str, Field(pattern=NAME)]
Split = Annotated[str, Field(pattern=SPLIT)]


def _held_out(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError("must be a valid integer greater than 0, or a share between 0 and 1")
    if isinstance(value, float) and value >= 1:
        raise ValueError("must be a valid integer greater than 0, or a share between 0 and 1")
    if value > WHOLE:
        raise ValueError(f"must be less than or equal to {WHOLE}")
    return value


HeldOut = Annotated[
    int | float,
    PlainValidator(_held_out),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0}),
]
"""A number of examples, or a share of them."""
