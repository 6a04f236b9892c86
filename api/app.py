"""Create the application: its routes and middleware."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from fastapi.telemetry import TelemetryConfig

from api import error_handlers
from api.access.gate import Gate
from api.access.provider import Provider
from api.access.rate_limits import RateLimits
from api.access.recorder import Recorder
from api.access.tokens import Tokens
from api.context import RequestContext
from api.page import login, openapi, pages, provider_login
from api.security_headers import SecurityHeaders
from api.v1 import document, events, feedback, health, identity, metrics, quarantine, reports, studies
from api.v1.feed import Feed
from api.v1.inquiries import inquiries, predictions
from api.v1.model import model
from api.v1.pixels import frame_routes
from api.v1.pixels.decoders import Decoders
from api.v1.requests.conditional import Conditional
from db.settings import Settings

DESCRIPTION = (
    "Preliminary radiology reports with their evidence, questions about studies, the state of every study, and"
    " decisions about their identity."
)
#: FastAPI exports requests with their query strings, which hold the Patient ID of a search, and texts of exceptions, as
#: soon as another package or a variable of the environment configures OpenTelemetry.
TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False, operation_spans=False, auto_configure=False)


def create_app(settings: Settings) -> FastAPI:
    """Return the application for the configured database, which need not be reachable yet."""
    app = FastAPI(
        title="Prelim",
        description=DESCRIPTION,
        # Version of the interface, as in its paths; not of the distribution.
        version="1",
        # Replaced by api.page.openapi.
        docs_url=None,
        redoc_url=None,
        lifespan=_with_decoder,
        telemetry=TELEMETRY,
    )
    app.state.settings = settings
    app.state.tokens = Tokens(settings)
    app.state.provider = Provider(settings, app.state.tokens)
    app.state.rate_limits = RateLimits(settings)
    app.state.recorder = Recorder(settings)
    app.state.feed = Feed(settings)
    app.state.decoders = Decoders()
    app.state.health = health.check(settings)
    # The last one is outermost: error responses get the headers, error logs the ids.
    app.add_middleware(Conditional, not_acceptable=error_handlers.not_acceptable)
    app.add_middleware(Gate, recorder=app.state.recorder, unavailable=error_handlers.unavailable)
    error_handlers.install(app)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestContext)
    modules = (health, metrics, events, studies, reports, feedback, inquiries, predictions, identity, quarantine, model)
    for module in (*modules, frame_routes, login, provider_login, pages, openapi):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "page" / "static"), name="static")
    document.install(app)
    return app


@asynccontextmanager
async def _with_decoder(app: FastAPI) -> AsyncIterator[None]:
    """Start a decoder, so that the first picture does not wait for it; at the end, store the counted requests."""
    app.state.decoders.warm()
    yield
    await app.state.recorder.close()
