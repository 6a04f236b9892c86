"""Unreadable files of a spool, as one process has found them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dicom_listener.indexing import unreadable
from tests import together

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from dicom_listener.spool.durable import Spool


def test_threads_that_begin_together_share_what_they_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(unreadable.UnreadableFiles):
        def __init__(self, spool: Spool) -> None:
            time.sleep(0.2)
            super().__init__(spool)

    monkeypatch.setattr(unreadable, "UnreadableFiles", Slow)

    assert len({id(found) for found in together.called(lambda: unreadable.of_spool(tmp_path))}) == 1
