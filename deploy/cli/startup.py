"""Read settings and set up logging for a command; the console that commands print to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from db import logs
from db.environment import load_settings

if TYPE_CHECKING:
    from db.settings import Settings

console = Console(markup=False, highlight=False)


def process_settings() -> Settings:
    """Return the settings, with logging configured from them."""
    settings = load_settings()
    logs.configure(settings)
    return settings


def server_settings(name: str) -> Settings:
    """Return the settings of a server process; raises ConfigurationError if its port is in use."""
    from deploy.operate.preflight import check_port

    settings = process_settings()
    check_port(settings, f"{name}_host", f"{name}_port")
    return settings
