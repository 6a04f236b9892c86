"""Base of the sections of the settings, and types of their values."""

from typing import Annotated

from pydantic import BaseModel, Field

AETitle = Annotated[
    str,
    Field(min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]*[!-\x5b\x5d-~][\x20-\x5b\x5d-\x7e]*$"),
]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel, frozen=True, extra="forbid"):
    """Settings of one subject; names are unique across sections, because variables are flat."""


def pairs(value: str) -> dict[str, str]:
    """Return the values of ``NAME=VALUE,NAME=VALUE`` by name; raises ValueError for a name with two values.

    The second value would silently replace the first one, which may be `keep`.
    """
    found: dict[str, str] = {}
    for pair in filter(str.strip, value.split(",")):
        name, _, of_name = (part.strip() for part in pair.partition("="))
        if found.setdefault(name, of_name) != of_name:
            raise ValueError(f"invalid rules: two values for {name}")
    return found
