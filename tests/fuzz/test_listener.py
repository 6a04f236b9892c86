"""The fuzzer's short form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fuzz.listener import fuzz, listening

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 10


def test_the_listener_survives_spoiled_sessions(tmp_path: Path) -> None:
    with listening(tmp_path) as subject:
        assert fuzz(subject, seed=20260101, seconds=SECONDS) > 20
        assert subject.acknowledged
