"""Read studies with confirmed findings and without reports: one JSON object a line beside the DICOM files.

`case_id`, `files` (relative paths), `labels` (as "left pleural effusion"; none, or only "normal" or "no finding": a
person found nothing) and `confirmed_by`, and optionally `source`, `modality`, `body_part` and `patient`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from db.errors import ConfigurationError
from worker.findings import lexicon
from worker.findings.labeller import labels, present
from worker.findings.spelling import plain
from worker.retrieval.case_files import Case

if TYPE_CHECKING:
    from pathlib import Path

    from worker.findings.labeller import Label

#: Labels of a study in which a person found nothing.
_NOTHING = {"normal", "no finding"}
_BESIDE = """
left right both bilateral bilaterally sided side upper middle mid lower apical basal basilar base bases apex apices zone
zones lobe lobes lung lungs hemisphere hemithorax frontal parietal temporal occipital cerebral pulmonary of the in on at
a an and tiny small medium large mild moderate marked severe massive extensive few numerous
"""
#: Words that a label may have beside its finding. Any other could deny it, or be a value: "nodule: 0", "old nodule".
BESIDE = frozenset(_BESIDE.split())
#: A word, or a character that no label has.
_TOKEN = re.compile(r"[^\W\d_]+|[^\s,()]")
_LISTS, _TEXTS = ("files", "labels"), ("case_id", "confirmed_by", "source", "modality", "body_part", "patient")


@dataclass(frozen=True, slots=True)
class LabelledCase:
    """A study and the findings in it that a person confirmed; its other findings are confirmed to be absent."""

    case: Case
    confirmed: frozenset[Label]
    confirmed_by: str
    source: str = ""


def read_labelled(path: Path) -> list[LabelledCase]:
    """Read a file of labelled cases; raises ConfigurationError with the number of an invalid line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read as UTF-8 text: name a file of labelled cases") from error
    cases = [_labelled(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not cases:
        raise ConfigurationError(f"no case in {path.name}: write one JSON object a line")
    if len({one.case.case_id for one in cases}) < len(cases):
        raise ConfigurationError(f"duplicate case_id in {path.name}: each case needs its own")
    return cases


def _labelled(number: int, line: str) -> LabelledCase:
    """Parse one line; error texts leave out its values, which may identify a patient."""
    try:
        fields: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise _invalid(number, f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise _invalid(number, "not a JSON object")
    for name in _LISTS:
        value = fields.get(name)
        if not isinstance(value, list) or not all(isinstance(part, str) and part for part in value):
            raise _invalid(number, f"{name} must be a list of strings")
    for name in _TEXTS:
        if not isinstance(fields.get(name, ""), str):
            raise _invalid(number, f"{name} must be a string")
    for name in ("case_id", "files", "confirmed_by"):
        if not fields.get(name):
            raise _invalid(number, f"{name} is missing or empty")
    # Beside another label these words are an error of the file, which `_read` reports.
    texts = [re.sub(r"(?<=[^\W\d_])[_-](?=[^\W\d_])", " ", label).strip() for label in fields["labels"]]
    texts = [] if len(texts) == 1 and texts[0].lower() in _NOTHING else texts
    confirmed = frozenset(label for n, text in enumerate(texts, start=1) for label in _read(number, n, text))
    known = {name: fields.get(name, "") for name in ("case_id", "modality", "body_part", "patient")}
    case = Case(files=fields["files"], report="", labels=texts, **known)
    return LabelledCase(case, confirmed, fields["confirmed_by"], fields.get("source", ""))


def _read(line: int, number: int, text: str) -> set[Label]:
    """Return the findings of a label: one, on one side or both."""
    found = present(text)
    if len({label.finding for label in found}) != 1 or any(one.certainty != "present" for one in labels(text)):
        raise _invalid(line, f"label {number} must affirm exactly one finding, as in 'left pleural effusion'")
    if not BESIDE.issuperset(_TOKEN.findall(lexicon.MENTION.sub(" ", plain(text).text))):
        raise _invalid(line, f"label {number} has words beside its finding that are neither side nor place nor size")
    return found


def _invalid(number: int, problem: str) -> ConfigurationError:
    return ConfigurationError(f"invalid line {number} of the labelled cases: {problem}")
