"""Decoding processes: a frame that ends or delays its process costs no other frame."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from api.v1.pixels import decoders
from api.v1.pixels.decoders import Busy, Decoders, NoPicture
from tests.polling import wait_until

#: Ends at a path with "ends", sleeps at one with "waits", refuses one with "refused", else returns the path.
PROGRAM = """
import json, struct, sys, time
for line in sys.stdin.buffer:
    path = json.loads(line)["path"]
    if "ends" in path: sys.exit(11)
    if "waits" in path: time.sleep(60)
    body = b'{"reason": "video", "detail": "a video"}' if "refused" in path else path.encode()
    sys.stdout.buffer.write(struct.pack("<BQ", int("refused" in path), len(body)) + body)
    sys.stdout.buffer.flush()
"""
COMMAND = (sys.executable, "-S", "-c", PROGRAM)


def test_refused_ended_and_slow_frames_leave_others_readable() -> None:
    pool = Decoders(COMMAND, frame_seconds=3)
    with pytest.raises(NoPicture, match="a video"):
        pool.message(Path("/refused"), 0)
    for hostile in ("ends", "waits"):
        with pytest.raises(NoPicture, match="took too long, or ended its process"):
            pool.message(Path("/") / hostile, 0)

    assert pool.message(Path("/good"), 0) == b"/good"


def test_process_runs_before_the_first_frame_and_after_one_that_ended_it(tmp_path: Path) -> None:
    started = tmp_path / "started"
    program = f"open({str(started)!r}, 'a').write('.')\n{PROGRAM}"
    pool = Decoders((sys.executable, "-S", "-c", program), frame_seconds=3)
    pool.warm()
    wait_until(lambda: started.exists() and started.read_text() == ".")
    with pytest.raises(NoPicture):
        pool.message(Path("/ends"), 0)

    wait_until(lambda: started.read_text() == "..")
    pool.warm()
    assert pool.message(Path("/good"), 0) == b"/good"
    assert started.read_text() == ".."


def test_missing_decoders_are_named() -> None:
    with pytest.raises(NoPicture, match="has no decoders"):
        Decoders((sys.executable, "-S", "-c", "import no_such_package")).message(Path("/good"), 0)


def test_process_has_no_credentials_of_the_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_DATABASE_URL", "postgresql://secret")
    tell = "import os, struct; body = repr(dict(os.environ)).encode(); import sys; sys.stdin.readline()\n"
    tell += "sys.stdout.buffer.write(struct.pack('<BQ', 0, len(body)) + body); sys.stdout.flush(); sys.stdin.read()"

    assert b"secret" not in Decoders((sys.executable, "-S", "-c", tell)).message(tmp_path, 0)


def test_requests_beyond_the_free_processes_are_refused_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "PROCESSES", 0)
    monkeypatch.setattr(decoders, "WAIT_SECONDS", 0.05)
    began = time.monotonic()

    with pytest.raises(Busy):
        Decoders(COMMAND).message(tmp_path, 0)
    assert time.monotonic() - began < 5
