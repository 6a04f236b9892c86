"""Rules of a site: which studies get which tasks, read from one TOML file (`PRELIM_RULES`).

The first rule that matches a study decides; a study without one gets its report and nothing else.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from sqlalchemy import func, select

from db.answers import inquiries
from db.answers.answer import Choice, Question
from db.errors import ConfigurationError, InvalidInquiry, Reason
from db.models import Instance, Job, Study
from db.states import JobState, StudyState
from db.studies.visibility import is_canary

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

Asked = TypeVar("Asked", Question, Choice)

#: Conditions of a rule: patterns with `*`, `?` and `[abc]`, in which case does not matter; one of several must match.
CONDITIONS = ("ae_title", "called_ae_title", "modality", "body_part", "description")
#: Tasks of a rule.
TASKS = ("store_only", "report", "questions", "diagnoses")
KEYS = ("name", *CONDITIONS, *TASKS)
_HEADER = re.compile(r"\s*\[\[\s*rule\s*\]\]")


class Attributes(NamedTuple):
    """Values of a study that rules look at."""

    ae_title: tuple[str, ...]
    called_ae_title: tuple[str, ...]
    modality: tuple[str, ...]
    body_part: tuple[str, ...]
    description: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: conditions that must all hold, and tasks."""

    name: str
    #: Patterns by condition, as `_folded` returns texts.
    patterns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Why the study is only stored; empty: it is not.
    store_only: str = ""
    report: bool = True
    asked: Sequence[Question | Choice] = ()

    def matches(self, attributes: Attributes) -> bool:
        """Return whether every condition has a pattern that a value of the study matches."""
        return all(
            any(fnmatchcase(_folded(value), pattern) for value in getattr(attributes, name) for pattern in patterns)
            for name, patterns in self.patterns.items()
        )

    @property
    def matches_all(self) -> bool:
        """True if it matches every study, so that no later rule is used."""
        return all("*" in patterns for patterns in self.patterns.values())

    def tasks(self) -> list[str]:
        """Return the tasks in words."""
        if self.store_only:
            return [f"only stored: {self.store_only}"]
        return [*(["report"] if self.report else []), *(_words(one) for one in self.asked)]


def _folded(text: str) -> str:
    """Return a text in which case, width and composition of letters and blanks at the ends make no difference."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _words(asked: Question | Choice) -> str:
    if isinstance(asked, Question):
        return f"question: {asked.text}"
    return f"diagnosis{' (several)' if asked.several else ''}: {', '.join(asked.options)}"


#: Decides about studies that no rule of the site matches.
DEFAULT = Rule("default")


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a file, in its order."""

    rules: Sequence[Rule] = ()

    def of(self, attributes: Attributes) -> Rule:
        """Return the first rule that matches, or DEFAULT."""
        return next((rule for rule in self.rules if rule.matches(attributes)), DEFAULT)


@lru_cache(maxsize=1)
def load(path: Path | None) -> Rules:
    """Read the rules of *path*, none if it is not set; raises ConfigurationError with line and remedy.

    The file is read once: a process keeps its rules until it is started again.
    """
    if path is None:
        return Rules()
    try:
        # Editors of Windows write a byte order mark.
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}: set PRELIM_RULES to a readable file") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from error
    try:
        return parsed(content)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def parsed(content: str) -> Rules:
    """Return the rules of a TOML text; raises ConfigurationError with line and remedy."""
    try:
        document = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"not TOML: {error}; correct the file") from error
    unknown = sorted(set(document) - {"rule"})
    if unknown:
        _fail(_line(content, None, unknown[0]), f"unknown key {unknown[0]!r}: expected [[rule]]")
    tables = document.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        _fail(_line(content, None, "rule"), "a rule is a table: write [[rule]] above its keys")
    rules: list[Rule] = []
    for number, table in enumerate(tables):
        place = _Place(content, number)
        rules.append(_rule(table, place))
        if rules[-1].name in {rule.name for rule in rules[:-1]}:
            place.fail("name", f"another rule is called {rules[-1].name!r}: give each a name of its own")
    return Rules(rules)


class _Place(NamedTuple):
    """A rule in its file, for errors."""

    content: str
    #: From 0.
    number: int

    def fail(self, key: str, problem: str) -> NoReturn:
        """Raise ConfigurationError with the line of *key*, or of the rule if it has none."""
        _fail(_line(self.content, self.number, key), problem)


def _fail(line: int, problem: str) -> NoReturn:
    raise ConfigurationError(f"line {line}: {problem}")


def _line(content: str, number: int | None, key: str) -> int:
    """Return the line of a key of a rule; that of the rule, or the first one, if it is not found."""
    lines = content.splitlines()
    headers = [index for index, line in enumerate(lines) if _HEADER.match(line)]
    start = 0 if number is None or number >= len(headers) else headers[number]
    after = [index for index in headers if index > start] if number is not None else []
    end = after[0] if after else len(lines)
    wanted = re.compile(rf"""\s*\[*["']?{re.escape(key)}["']?\s*[=.\]]""")
    found = (index for index in range(start, end) if wanted.match(lines[index]))
    return 1 + next(found, start)


def _rule(table: dict[str, Any], place: _Place) -> Rule:
    for key in table:
        if key not in KEYS:
            place.fail(key, f"unknown key {key!r}: expected one of {', '.join(KEYS)}")
    name = table.get("name")
    if not isinstance(name, str) or not name.strip():
        place.fail("name", 'a rule needs a name: write name = "..."')
    patterns = {key: _patterns(table[key], key, place) for key in CONDITIONS if key in table}
    store_only = table.get("store_only", "")
    if not isinstance(store_only, str) or ("store_only" in table and not store_only.strip()):
        place.fail("store_only", 'expected the reason for the reader: store_only = "outside films"')
    report = table.get("report", True)
    if not isinstance(report, bool):
        place.fail("report", "expected true or false")
    asked: list[Question | Choice] = [
        *_questions(table.get("questions", []), place),
        *_diagnoses(table.get("diagnoses", []), place),
    ]
    if len(asked) > inquiries.MAX_OPEN:
        place.fail("name", f"{len(asked)} questions and diagnoses: at most {inquiries.MAX_OPEN} of a study can be open")
    if store_only and (asked or "report" in table):
        place.fail("store_only", "a study that is only stored has no other task: remove report, questions, diagnoses")
    return Rule(str(name), patterns, store_only, report, asked)


def _patterns(value: object, key: str, place: _Place) -> tuple[str, ...]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) for one in patterns):
        place.fail(key, f'expected a pattern or a list of patterns: {key} = ["CR", "DX"]')
    for pattern in patterns:
        if not pattern.strip():
            place.fail(key, 'an empty pattern matches nothing: write "*" for any value, or leave the key out')
        if re.sub(r"\[!?\]?[^\]]*\]", "", pattern).count("["):
            place.fail(key, f"pattern {pattern!r}: [ has no closing ]; write [[] for the character")
    return tuple(_folded(pattern) for pattern in patterns)


def _questions(value: object, place: _Place) -> Iterable[Question]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        place.fail("questions", 'expected a list of texts: questions = ["Is there a pneumothorax?"]')
    for text in value:
        yield _checked(Question(text), "questions", place)


def _diagnoses(value: object, place: _Place) -> Iterable[Choice]:
    example = 'expected a list of tables: diagnoses = [{ options = ["normal", "tumor"], several = false }]'
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        place.fail("diagnoses", example)
    for one in value:
        options, several = one.get("options"), one.get("several", False)
        known = set(one) <= {"options", "several"} and isinstance(several, bool)
        if not known or not isinstance(options, list) or not all(isinstance(label, str) for label in options):
            place.fail("diagnoses", example)
        yield _checked(Choice(options, several=several), "diagnoses", place)


def _checked(asked: Asked, key: str, place: _Place) -> Asked:
    try:
        inquiries.checked(asked)
    except InvalidInquiry as error:
        place.fail(key, str(error))
    return asked


def attributes(session: Session, study: Study) -> Attributes:
    """Return the values of a settled study that rules look at; an absent one is an empty text."""
    called = session.scalars(select(func.distinct(Instance.called_ae_title)).where(Instance.study_id == study.id))
    return Attributes(
        ae_title=(study.calling_ae_title.strip(),),
        called_ae_title=tuple(sorted({title.strip() for title in called})),
        modality=(study.modality,),
        # "HEAD, NECK": any of them.
        body_part=tuple(part.strip() for part in study.body_part.split(",")),
        description=(study.study_description,),
    )


def apply(session: Session, job_ids: Sequence[uuid.UUID], rules: Rules) -> list[uuid.UUID]:
    """Give the studies of new report jobs their tasks, in the transaction that settled them.

    Returns the ids of the jobs that are queued, with those of inquiries. A study without a report ends as not
    reportable, with the reason in words. A canary gets its report.
    """
    return [queued for job_id in job_ids for queued in _apply(session, session.get_one(Job, job_id), rules)]


def _apply(session: Session, job: Job, rules: Rules) -> list[uuid.UUID]:
    if not rules.rules:
        return [job.id]
    study = session.get_one(Study, job.study_id)
    if is_canary(session, study):
        return [job.id]
    rule = rules.of(attributes(session, study))
    requested_by = f"rule {rule.name}"
    asked = [inquiries.ask(session, study, one, requested_by, by_rule=True) for one in rule.asked]
    if rule.store_only:
        _end(study, job, Reason.STORE_ONLY, f"only stored, by the rule {rule.name!r}: {rule.store_only}")
    elif not rule.report:
        _end(study, job, Reason.NO_REPORT_TASK, f"the rule {rule.name!r} gives it no report")
    else:
        asked.insert(0, job.id)
    return asked


def _end(study: Study, job: Job, reason: Reason, detail: str) -> None:
    job.state, job.finished_at = JobState.NOT_REPORTABLE, func.clock_timestamp()
    study.state = StudyState.NOT_REPORTABLE
    job.reason = study.reason = reason
    job.detail = study.detail = detail
