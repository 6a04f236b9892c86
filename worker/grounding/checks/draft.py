"""A part of a draft as the checks see it, and what a check returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from worker.findings.labeller import sentences
from worker.grounding.checks.normal_statements import denied_by

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from db.reports.grounds import GroundedFinding
    from worker.findings.labeller import Label, Sentence
    from worker.findings.sections import Section


@dataclass(frozen=True)
class DraftPart:
    """Texts of one part of a study and what its headers and its evidence state; empty where they state nothing."""

    findings: str
    impression: str
    #: Heading of the part, as `CT HEAD`.
    name: str = ""
    modality: str = ""
    body_part: str = ""
    #: True if the text reached its limit of tokens or time.
    cut_off: bool = False
    #: Of each image: "L", "R", "B" or "".
    lateralities: Sequence[str] = ()
    #: Of each image: View Position, as "PA".
    views: Sequence[str] = ()
    #: "M" or "F"; "" for any other value.
    patient_sex: str = ""
    #: Body part that the images resemble, if it is not that of the header.
    resembled_part: str = ""
    #: Findings as stored, with the cases that they cite; None if no similar earlier case was found.
    stated: Sequence[GroundedFinding] | None = None
    #: Findings, with their sides, that the image was measured to show; None if nothing was measured.
    in_image: Collection[tuple[str, str]] | None = None

    @property
    def text(self) -> str:
        """Findings and impression."""
        return f"{self.findings}\n{self.impression}".strip()

    @cached_property
    def sections(self) -> Sequence[tuple[Section, Sequence[Sentence]]]:
        """The two sections with their sentences."""
        return ("findings", sentences(self.findings)), ("impression", sentences(self.impression, "impression"))

    def labels(self, section: Section | None = None) -> list[Label]:
        """Return the findings that a section, or the whole text, mentions."""
        found = (lines for name, lines in self.sections if section in (None, name))
        return [mention.label for lines in found for sentence in lines for mention in sentence.mentions]

    def denied(self, section: Section) -> list[Label]:
        """Return what a section denies, by name or by calling an organ normal ("the lungs are clear")."""
        return [
            *(label for label in self.labels(section) if label.certainty == "absent"),
            *(label for name, lines in self.sections if name == section for line in lines for label in denied_by(line)),
        ]

    def affirmed(self, section: Section | None = None) -> list[Label]:
        """Return the findings that a section, or the whole text, affirms, each once."""
        return list(dict.fromkeys(label for label in self.labels(section) if label.certainty == "present"))


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """Reason for which a check could not be made."""

    reason: str


if TYPE_CHECKING:
    #: Returns a sentence for each problem; none if the check is passed.
    CheckFunction = Callable[[DraftPart], Sequence[str] | NotApplicable]


def phrase(label: Label) -> str:
    """Return a finding in words, as `left upper nodule`."""
    return " ".join(filter(None, (label.side, label.zone, label.finding)))
