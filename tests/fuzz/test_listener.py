"""A short run of the fuzzer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fuzz.listener import fuzz, listening

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 10


def test_listener_survives_mutated_sessions(tmp_path: Path) -> None:
    with listening(tmp_path) as subject:
        assert fuzz(subject, seed=20260101, seconds=SECONDS) > 20
        assert subject.acknowledged
