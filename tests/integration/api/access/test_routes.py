"""Every route is either open or guarded by a scope, found by a walk through included routers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.testclient import TestClient
from sqlalchemy import select

from api.access.gate import OPEN
from db.access import keys
from db.access.principals import SCOPES
from db.models import Instance
from db.session import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

    from tests.integration.api.arrivals import Arrivals

SOME = "0b7d5d5e-7c2b-4f0e-9a53-5d1f6c1e8a11"
#: Method and path of every guarded route, with its scope.
GUARDED = {
    "GET /": "worklist",
    "GET /quarantine": "worklist",
    "GET /studies/{study_id}": "reports",
    "GET /studies/{study_id}/versions": "reports",
    "GET /v1/quarantine": "worklist",
    "GET /v1/studies": "worklist",
    "GET /v1/studies/{study_id}": "worklist",
    "GET /v1/studies/{study_id}/events": "worklist",
    "GET /v1/studies/{study_id}/identity": "worklist",
    "GET /v1/studies/{study_id}/report": "reports",
    "GET /v1/studies/{study_id}/report/diff": "reports",
    "GET /v1/studies/{study_id}/report/feedback": "reports",
    "GET /v1/studies/{study_id}/report/versions": "reports",
    "GET /v1/studies/{study_id}/report/images/{ordinal}": "images",
    "GET /v1/studies/{study_id}/report/pictures/{ordinal}": "images",
    "GET /v1/studies/{study_id}/instances": "images",
    "GET /v1/studies/{study_id}/instances/{instance_id}/frames/{frame}": "images",
    "GET /v1/events": "worklist",
    "GET /v1/reports": "reports",
    "GET /v1/answers": "questions",
    "GET /v1/model": "reports",
    "POST /v1/studies/{study_id}/hold": "feedback",
    "POST /v1/studies/{study_id}/identity": "identity",
    "POST /v1/studies/{study_id}/impression": "feedback",
    "POST /v1/studies/{study_id}/release": "admin",
    "POST /v1/studies/{study_id}/report/feedback": "feedback",
    "POST /studies/{study_id}/acknowledgement": "reports",
    "POST /studies/{study_id}/questions": "questions",
    "POST /studies/{study_id}/sentences": "feedback",
    "POST /studies/{study_id}/open": "reports",
    "POST /studies/{study_id}/impression": "feedback",
    "POST /v1/studies/{study_id}/report/open": "reports",
    "POST /v1/studies/{study_id}/questions": "questions",
    "POST /v1/studies/{study_id}/diagnoses": "questions",
    "POST /v1/predictions": "predictions",
    "POST /v1/studies/{study_id}/predictions": "predictions",
    "GET /v1/studies/{study_id}/questions": "questions",
    "GET /v1/studies/{study_id}/diagnoses": "questions",
    "GET /v1/questions/{inquiry_id}": "questions",
    "GET /v1/diagnoses/{inquiry_id}": "questions",
}
FRAME = "GET /v1/studies/{study_id}/instances/{instance_id}/frames/{frame}"
#: Query parameters that a route requires.
QUERIES = {"GET /v1/studies/{study_id}/report/diff": "?earlier=1"}
STREAM = "GET /v1/events"
#: Values of the parameters of paths.
PATH = {"study_id": SOME, "ordinal": "1", "inquiry_id": SOME, "instance_id": SOME, "frame": "1"}


def walk(routes: Any) -> Iterator[Any]:
    """Yield every route, of included routers and mounted applications too."""
    for route in routes:
        inner = getattr(getattr(route, "original_router", route), "routes", None)
        if inner:
            yield from walk(inner)
        else:
            yield route


def scopes(dependant: Any) -> set[str]:
    """Return the scopes that the guards of a route require."""
    own = {getattr(dependant.call, "scope", None)} - {None}
    return own.union(*(scopes(dependency) for dependency in dependant.dependencies))


def found(app: FastAPI) -> dict[str, set[str]]:
    """Return the scopes by method and path."""
    routes: dict[str, set[str]] = {}
    for route in walk(app.routes):
        for method in sorted((getattr(route, "methods", None) or {"GET"}) - {"HEAD"}):
            routes[f"{method} {route.path}"] = scopes(route.dependant) if hasattr(route, "dependant") else set()
    return routes


def test_every_route_is_open_or_has_the_listed_scope(app: FastAPI) -> None:
    routes = found(app)
    opened = {route for route in routes if not routes[route]}

    assert {route: needed for route, needed in routes.items() if needed} == {
        route: {needed} for route, needed in GUARDED.items()
    }
    assert {route.partition(" ")[2] for route in opened} == {path for path in OPEN if path != "/static/{path:path}"} | {
        "/static"
    }


def test_guarded_routes_refuse_each_key_without_their_scope(app: FastAPI, database_url: str) -> None:
    with transaction(database_url) as session:
        texts = {scope: keys.create(session, scope, [scope]) for scope in SCOPES}
    client = TestClient(app, follow_redirects=False)
    accepted: dict[str, set[str]] = {}
    for route, needed in GUARDED.items():
        method, _, path = route.partition(" ")
        path = path.format(**PATH)
        anonymous = client.request(method, path)
        assert anonymous.status_code in {401, 303}, route
        if route == STREAM:
            # It has no end; the other keys are refused.
            accepted[route] = {needed}
        for scope, key in texts.items():
            if route == STREAM and scope == needed:
                continue
            answer = client.request(method, path, headers={"Authorization": f"Bearer {key}"})
            if answer.status_code != 403:
                accepted.setdefault(route, set()).add(scope)

    assert accepted == {route: {scope} for route, scope in GUARDED.items()}


def test_key_of_another_site_gets_nothing_of_a_study_from_any_route(
    app: FastAPI, database_url: str, arrivals: Arrivals
) -> None:
    study = arrivals.reported()
    arrivals.sent_by("NORTH", study)
    with transaction(database_url) as session:
        sites = {site: keys.create(session, site, list(SCOPES), ae_titles=[site]) for site in ("NORTH", "SOUTH")}
        instance = session.scalars(select(Instance.id)).one()
    client = TestClient(app, follow_redirects=False)
    found: dict[str, dict[str, int]] = {}
    for route in GUARDED:
        method, _, path = route.partition(" ")
        if method != "GET" or "{study_id}" not in path:
            continue
        address = path.format(**PATH | {"study_id": str(study), "instance_id": str(instance)})
        for site, key in sites.items():
            answer = client.get(f"{address}{QUERIES.get(route, '')}", headers={"Authorization": f"Bearer {key}"})
            found.setdefault(site, {})[route] = answer.status_code
            assert site == "NORTH" or "Doe" not in answer.text

    assert set(found["SOUTH"].values()) == {404}
    # The file of the frame is not stored in this test.
    assert {route for route, status in found["NORTH"].items() if status != 200} == {FRAME}


def test_route_without_a_guard_sends_nothing(app: FastAPI) -> None:
    @app.get("/v1/forgotten")
    def forgotten() -> str:
        return "Doe^Jane"

    answer = TestClient(app).get("/v1/forgotten")

    assert answer.status_code == 500
    assert "Doe" not in answer.text
