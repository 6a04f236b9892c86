"""Sentences of a report with their findings, and what each finding rests on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert as insert_into

from db.models import Citation, Finding, Omission, Sentence
from db.states import Calibration, Verdict

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy.orm import Session

    from db.models import Base


@dataclass(frozen=True, slots=True)
class CitedSentence:
    """A sentence of a case in the report's evidence that affirms or denies a finding; *rank* as in the evidence."""

    rank: int
    stance: str
    sentence: str


@dataclass(frozen=True, slots=True)
class InImage:
    """Score of a finding in the image that shows it most, and where.

    *image* is the ordinal of the image. For affirmed findings only: *shares* are those of its patches, row by row, and
    sum to the score; *region* is left, top, width and height in parts of the image.
    """

    score: float
    threshold: float
    image: int
    shares: list[float] = field(default_factory=list)
    region: list[float] | None = None


@dataclass(frozen=True, slots=True)
class GroundedFinding:
    """A finding that a sentence states, and what it rests on; *start* and *end* are offsets of its words."""

    name: str
    side: str
    zone: str
    size: str
    certainty: str
    start: int
    end: int
    verdict: Verdict
    #: None if not measurable: the reference set lacks the finding, or the images were not compared.
    in_image: InImage | None = None
    #: Natural logarithm of the probability that the model gave the finding's words; None if it wrote none of them.
    log_prob: float | None = None
    cited: list[CitedSentence] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GroundedSentence:
    """A sentence; *section* is the text that *start* and *end* count in: "findings" or "impression"."""

    section: str
    start: int
    end: int
    findings: list[GroundedFinding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OmittedFinding:
    """A finding that the image shows and the text does not mention."""

    name: str
    side: str
    in_image: InImage


@dataclass(frozen=True, slots=True)
class Grounds:
    """Grounds of the findings of a report."""

    sentences: list[GroundedSentence]
    omitted: list[OmittedFinding] = field(default_factory=list)
    calibration: Calibration = Calibration.UNCALIBRATED


def is_flagged(certainty: str, verdict: Verdict, cited: Sequence[CitedSentence] = ()) -> bool:
    """Return whether the reader must check a finding first.

    An affirmed one that the image shows and no case affirms is not flagged, because a case never makes a finding more
    certain; its verdict says so in words. One that is not measurable is flagged unless a case affirms it. A denial is
    flagged only if something speaks against it.
    """
    if verdict == Verdict.NOT_MEASURABLE:
        return certainty != "absent" and all(case.stance != "affirms" for case in cited)
    return verdict in (Verdict.UNSUPPORTED, Verdict.CONTRADICTED)


def without_words(grounds: Grounds, ranks: Collection[int]) -> Grounds:
    """Return the grounds without the sentences of the cases with *ranks*, which were erased."""

    def emptied(finding: GroundedFinding) -> GroundedFinding:
        cited = [replace(one, sentence="") if one.rank in ranks else one for one in finding.cited]
        return replace(finding, cited=cited)

    sentences = [replace(one, findings=[emptied(finding) for finding in one.findings]) for one in grounds.sentences]
    return replace(grounds, sentences=sentences)


def insert(session: Session, report_id: uuid.UUID, grounds: Grounds) -> None:
    """Insert the grounds of a report, after its evidence."""
    of_report: dict[str, Any] = {"report_id": report_id}
    numbered = list(enumerate(grounds.sentences, start=1))
    sentences = [
        of_report | {"ordinal": ordinal, "section": one.section, "start": one.start, "end": one.end}
        for ordinal, one in numbered
    ]
    stated = [(ordinal, finding) for ordinal, one in numbered for finding in one.findings]
    findings, citations = [], []
    for number, (sentence, finding) in enumerate(stated, start=1):
        columns = asdict(finding)
        cited = columns.pop("cited")
        findings.append(of_report | {"ordinal": number, "sentence": sentence} | columns)
        citations += [of_report | {"finding": number} | one for one in cited]
    omissions = [of_report | {"ordinal": n} | asdict(one) for n, one in enumerate(grounds.omitted, start=1)]
    tables: list[tuple[type[Base], list[dict[str, Any]]]] = [
        (Sentence, sentences),
        (Finding, findings),
        (Citation, citations),
        (Omission, omissions),
    ]
    for table, rows in tables:
        if rows:
            session.execute(insert_into(table), rows)


def from_rows(
    calibration: str,
    sentences: Iterable[dict[str, Any]],
    findings: Iterable[dict[str, Any]],
    citations: Iterable[dict[str, Any]],
    omissions: Iterable[dict[str, Any]],
) -> Grounds:
    """Return the grounds of a report from its rows, each in the order of its text."""
    cited: dict[int, list[CitedSentence]] = defaultdict(list)
    for row in citations:
        cited[row["finding"]].append(CitedSentence(row["rank"], row["stance"], row["sentence"]))
    stated: dict[int, list[GroundedFinding]] = defaultdict(list)
    for row in findings:
        stated[row["sentence"]].append(_finding(row, cited[row["ordinal"]]))
    return Grounds(
        [GroundedSentence(row["section"], row["start"], row["end"], stated[row["ordinal"]]) for row in sentences],
        [OmittedFinding(row["name"], row["side"], InImage(**row["in_image"])) for row in omissions],
        Calibration(calibration),
    )


def _finding(row: dict[str, Any], cited: list[CitedSentence]) -> GroundedFinding:
    same = ("name", "side", "zone", "size", "certainty", "start", "end", "log_prob")
    in_image = None if row["in_image"] is None else InImage(**row["in_image"])
    verdict = Verdict(row["verdict"])
    return GroundedFinding(**{name: row[name] for name in same}, verdict=verdict, in_image=in_image, cited=cited)
