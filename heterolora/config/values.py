"""What values of a configuration can be, wherever they are."""

from typing import Annotated, Any

from pydantic import Field, PlainValidator

PositiveInt = Annotated[int, Field(strict=True, gt=0)]


def _rank(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a valid integer, or a part of a rank between 0 and 1")
    if value < 0:
        raise ValueError("must be greater than or equal to 0")
    if isinstance(value, float) and not 0 < value < 1:
        raise ValueError("must be a valid integer, or a part of a rank between 0 and 1")
    return value


Rank = Annotated[int | float, PlainValidator(_rank)]
"""A whole number, or a part of one rank for each site; zero for a kind of site that the search
space does not have."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number; `true` is none."""
PathPart = r"[A-Za-z0-9][\w.-]*"
"""A name that can be a folder, and cannot lead out of one."""
PositiveNumber = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]


def _held_out(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError("must be a valid integer greater than 0, or a share between 0 and 1")
    if isinstance(value, float) and value >= 1:
        raise ValueError("must be a valid integer greater than 0, or a share between 0 and 1")
    return value


HeldOut = Annotated[int | float, PlainValidator(_held_out)]
"""A number of examples, or a share of them."""
