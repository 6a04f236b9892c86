"""Body of the draft of a specialist model, as a report shows it."""

from typing import Literal

from pydantic import Field

from api.v1.body import Body


class SpecialistDraft(Body):
    """Draft of a specialist model for this study, case 0 of the prompt. It is no evidence: no finding rests on it."""

    rank: Literal[0] = 0
    name: str = Field(description="Of the specialist model.")
    version: str
    source: str = Field(description="Way by which it arrived.")
    text: str
    quoted: str = Field(description="Text that the model received; empty if it did not receive the draft.")
    warnings: list[str] = Field(description="Why the model did not receive the draft, or a part of its text.")
