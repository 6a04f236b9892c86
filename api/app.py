"""The application: which routes there are and what surrounds them."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from api import errors
from api.headers import SecurityHeaders
from api.page import login, openapi, pages
from api.v1 import health, metrics, studies
from db.settings import Settings

DESCRIPTION = "Preliminary radiology reports, what they rest on, and the state of every study. Reads only."


def create_app(settings: Settings) -> FastAPI:
    """The API and the page on the configured database, which need not be reachable yet."""
    app = FastAPI(
        title="Prelim",
        description=DESCRIPTION,
        # Of the interface, as in its addresses; not of the distribution.
        version="1",
        # Ours is in api.page.openapi.
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    errors.install(app)
    # Last, so outermost: errors get the headers too.
    app.add_middleware(SecurityHeaders)
    for module in (health, metrics, studies, login, pages, openapi):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "page" / "static"), name="static")
    return app
