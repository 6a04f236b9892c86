"""Where to look, told to the person who started it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.embedded.credentials import local_api_key
from deploy.flower import USER
from deploy.launcher.processes import near

if TYPE_CHECKING:
    from collections.abc import Callable

    from db.settings import Settings


def addresses(settings: Settings) -> list[tuple[str, str]]:
    """What is where: name and address."""
    api = f"http://{near(settings.api_host)}:{settings.api_port}"
    flower = f"http://{near(settings.flower_host)}:{settings.flower_port}"
    return [
        ("DICOM", f"AE title {settings.ae_title} at {settings.dicom_host}:{settings.dicom_port}"),
        ("page", f"{api}/   (key: {local_api_key(settings)})"),
        ("API", f"{api}/docs"),
        ("Flower", f"{flower}/   (user {USER}, password: {settings.data_dir / 'secrets' / 'flower-password'})"),
    ]


def greet(settings: Settings, say: Callable[[str], None]) -> None:
    """Say where everything is; secrets are named by their file, never printed."""
    for name, address in addresses(settings):
        say(f"{name:<7}{address}")
