"""Jinja environment of the page: everything is escaped, and an undefined name is an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.page import display, sentences, verdicts
from db.reports.versions import BANNER
from db.states import PENDING

if TYPE_CHECKING:
    from fastapi import Request

    from api.access.access import Access

HERE = Path(__file__).parent
FILTERS = (
    display.person,
    display.patient,
    display.not_read,
    display.date,
    display.moment,
    display.duration,
    display.fields,
    display.attention,
    display.state,
    display.priority,
    display.paragraphs,
    display.turned,
    display.pretty,
    verdicts.standing,
    verdicts.pieces,
    verdicts.words,
    verdicts.mark,
    verdicts.marked,
    verdicts.named,
    verdicts.probability,
    verdicts.marks,
    sentences.listed,
    sentences.plain,
    sentences.judged,
)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({each.__name__: each for each in FILTERS})
    environment.globals["BANNER"] = BANNER
    environment.globals["PENDING"] = PENDING
    return environment


def _reader(request: Request) -> dict[str, Any]:
    """Return the caller under whose name acts of the page are stored; empty without one."""
    access: Access | None = request.scope.get("state", {}).get("access")
    return {"reader": str(access.principal) if access and access.principal else ""}


templates = Jinja2Templates(env=_environment(), context_processors=[_reader])
