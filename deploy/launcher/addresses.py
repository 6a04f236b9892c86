"""Print the addresses of a running installation, and the files that hold its secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.embedded.credentials import FLOWER_USER, local_api_key
from deploy.launcher.processes import loopback_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from db.settings import Settings


def addresses(settings: Settings) -> list[tuple[str, str]]:
    """Return name and address of each interface."""
    api = f"http://{loopback_address(settings.api.api_host)}:{settings.api.api_port}"
    password = settings.operations.data_dir / "secrets" / "flower-password"
    flower = f"http://{loopback_address(settings.operations.flower_host)}:{settings.operations.flower_port}"
    return [
        ("DICOM", f"AE title {settings.dicom.ae_title} at {settings.dicom.dicom_host}:{settings.dicom.dicom_port}"),
        ("page", f"{api}/   (key: {local_api_key(settings)})"),
        ("API", f"{api}/docs"),
        ("Flower", f"{flower}/   (user {FLOWER_USER}, password: {password})"),
    ]


def print_addresses(settings: Settings, print_line: Callable[[str], None]) -> None:
    """Print one line per interface; secrets are named by their file, never printed."""
    for name, address in addresses(settings):
        print_line(f"{name:<7}{address}")
