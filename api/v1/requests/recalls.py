"""Recalls: pages of all that used a reference case, a model, a prompt or a specialist."""

from __future__ import annotations

import uuid  # noqa: TC003 - FastAPI reads annotations at run time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import Query, Request, Response

from api.v1.requests import cursor, work_list
from db.operations.filters import Position
from db.operations.recall import Used, UsedAnswer, UsedReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.access.authenticate import Caller

#: Rows of one page.
MAX_PAGE = 200
R = TypeVar("R", UsedReport, UsedAnswer)


@dataclass(frozen=True, slots=True)
class Recall:
    """Request of a page: what was used, and the cursor of the page before."""

    request: Request
    response: Response
    used: Used
    after: str | None
    limit: int

    def page(self, caller: Caller, listed: str, find: Callable[..., list[R]]) -> tuple[list[R], str | None]:
        """Return what *find* finds, the newest first, and the cursor of the next page; *listed* names the list."""
        seen = caller.principal.ae_titles
        own = cursor.of_list(caller.session, listed, self.used, None if seen is None else tuple(sorted(seen)))
        start = work_list.position(own, self.after)
        rows = find(caller.session, self.used, seen, limit=self.limit + 1, after=start and start.study_id)
        shown = rows[: self.limit]
        caller.disclose(row.study_id for row in shown)
        last = Position(shown[-1].created_at, shown[-1].id) if len(rows) > self.limit else None
        following = None if last is None else own.encode(last)
        self.response.headers.update(work_list.link(self.request, following))
        return shown, following


async def recalled(
    request: Request,
    response: Response,
    case_id: Annotated[uuid.UUID | None, Query(description="Reference case among the evidence.")] = None,
    model_digest: Annotated[work_list.Text | None, Query(description="Digest of the checkpoint.")] = None,
    prompt: Annotated[work_list.Text | None, Query(description="`prompt_version`.")] = None,
    specialist: Annotated[
        work_list.Text | None, Query(description="Name of the model whose draft or label it received.")
    ] = None,
    after: Annotated[work_list.Cursor | None, Query(description="`next` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> Recall:
    """Return the recall that a request asks for; raises ApiError 422. Asynchronous: it waits for nothing."""
    used = Used(case_id, model_digest, prompt, specialist)
    if used == Used():
        raise work_list.invalid("expected case_id, model_digest, prompt or specialist")
    return Recall(request, response, used, after, limit)
