"""Base of the response bodies."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Banner = Annotated[str, Field(description="Show it wherever any part of the report is shown.")]


class Body(BaseModel):
    """Base of all bodies: read from dataclasses and rows, immutable."""

    model_config = ConfigDict(from_attributes=True, frozen=True)
