"""Results of inquiries, as the worker's pipeline returns them, before they are stored."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from db.states import Calibration

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Sequence

    from db.reports.grounds import GroundedFinding

#: Text of an answer whose confidence is below its limit.
CANNOT_TELL = "cannot tell from these images"
#: Option that every diagnosis has beside those of the inquiry.
NONE_OF_THESE = "none of these"
#: Words of an option that means the same, without accents: it begins with one of the first, and has others only of the
#: second. "No finding" means something else.
_NONE = frozenset(
    """none neither keine keiner keines keins nichts aucun aucune ninguno ninguna ningun nessuno nessuna nessun nenhum
    nenhuma geen ingen inget inga""".split()  # noqa: SIM905 - a list of words is easier to read
)
_OF_THESE = frozenset(
    """of the these those them all above below listed given mentioned following option options diagnosis diagnoses label
    labels answer answers choice choices other others apply applies davon von diesen dieser der den oben genannten
    obigen optionen diagnosen antworten de d des du ces ceux celles ci la dessus entre parmi eux reponses estos estas
    los las anteriores opciones di questi queste dei delle precedenti opzioni destes destas dos das opcoes van deze
    bovenstaande av dessa ovanstaende""".split()  # noqa: SIM905
)
NEWER = "Images arrived after this answer: it rests on those of revision {} and not on those of revision {}."
LATE = "Predictions of specialist models arrived after this answer was begun: ask again ({} of them)."
ERASED = "{} of {} similar earlier cases were erased after this answer."


def name_of(label: str) -> str:
    """Return a label without what a reader does not see: case, width of letters, spaces and a full stop at its end."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split()).rstrip(" .")


def is_none_of_these(option: str) -> bool:
    """Return whether an option means NONE_OF_THESE, in other letters, spaces, words or a common language."""
    letters = unicodedata.normalize("NFKD", option.casefold())
    words = re.findall(r"[^\W_]+", "".join(one for one in letters if not unicodedata.combining(one)))
    return bool(words) and words[0] in _NONE and _OF_THESE.issuperset(words[1:])


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image that the model received; *number* counts from 1, in its order."""

    number: int
    sop_instance_uid: str
    #: Frame number, from 0.
    frame: int
    #: Reason of the selection, for the reader.
    reason: str
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class NeighbourCase:
    """An earlier case given to the model; *case_id* is None, and its words empty, once it is erased."""

    case_id: uuid.UUID | None
    #: Cosine similarity, -1 to 1.
    similarity: float
    #: Its whole report.
    excerpt: str
    #: Text of the case in the prompt; empty if the model did not receive the case.
    quoted: str = ""
    #: Labels by which it votes.
    labels: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Label and score of a specialist model for a study; *source* is the way it arrived."""

    name: str
    version: str
    label: str
    #: None if the specialist gives none.
    score: float | None
    source: str


@dataclass(frozen=True, slots=True)
class OptionScore:
    """A label of a diagnosis, scored by teacher forcing; log-probabilities are natural logarithms."""

    label: str
    #: After calibration; of all options and "none of these" the sum is 1, unless several may be chosen.
    probability: float
    chosen: bool
    #: Sum over the tokens of the label, before calibration.
    log_prob: float
    #: Earlier cases that have the label, among those given to the model.
    votes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Part that answers and diagnoses have in common.

    *text* is for the reader: CANNOT_TELL if *cannot_tell*, and then *why* is a sentence. *model_text* is the model's
    own. *findings* are those that *text* states, with offsets in it; the rank of a cited sentence counts in *evidence*.
    """

    text: str
    model_text: str
    basis: str
    prompt_version: str
    model_digest: str
    provenance: dict[str, Any]
    cannot_tell: bool = False
    why: str = ""
    #: 0 to 1; None: not measured.
    confidence: float | None = None
    #: Limit below which the images do not tell.
    min_confidence: float | None = None
    calibration: Calibration = Calibration.UNCALIBRATED
    findings: list[GroundedFinding] = field(default_factory=list)
    evidence: list[NeighbourCase] = field(default_factory=list)
    images: list[ShownImage] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    limitations: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Result):
    """Answer to a question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(Result):
    """Choice between diagnoses: *options* in the order of the inquiry, without "none of these"."""

    options: list[OptionScore]
    #: Probability that none of the options is right; None if none was scored, and then *options* is empty.
    none_of_these: float | None

    @property
    def chosen(self) -> list[str]:
        """Labels of the chosen options; empty: none of these, or the images do not tell."""
        return [option.label for option in self.options if option.chosen]

    @property
    def vote(self) -> list[str]:
        """Labels with most votes of the earlier cases; empty without a vote."""
        most = max((option.votes for option in self.options), default=0)
        return [option.label for option in self.options if most and option.votes == most]


@dataclass(frozen=True, slots=True)
class Question:
    """Inquiry with a question; *text* is hostile input."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """Inquiry with diagnoses to choose from; the labels are hostile input."""

    options: Sequence[str] = field(repr=False)
    #: True if more than one may be chosen.
    several: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored result; *newer_revision* is the study's if images arrived after those that it rests on.

    *calibration* is the standing of the confidence, as written unless suspended since, and its reason unless certified.
    """

    result: Answer | Diagnosis
    revision: int
    newer_revision: int | None
    created_at: dt.datetime
    calibration: Calibration
    calibration_reason: str
    #: Labels of specialist models that arrived after the diagnosis was begun.
    late_predictions: int = 0

    @property
    def limitations(self) -> list[str]:
        """Sentences for the reader: why the answer may be incomplete or outdated."""
        why = [self.result.why] if self.result.why else []
        newer = [NEWER.format(self.revision, self.newer_revision)] if self.newer_revision else []
        erased = sum(case.case_id is None for case in self.result.evidence)
        gone = [ERASED.format(erased, len(self.result.evidence))] if erased else []
        late = [LATE.format(self.late_predictions)] if self.late_predictions else []
        return [*why, *newer, *late, *gone, *self.result.limitations]
