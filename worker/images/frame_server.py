"""Program that decodes stored frames for the API: a process of its own, because hostile files can end a decoder.

Each request is a line of JSON on standard input, `{"path": ..., "frame": ...}`. The answer on standard output is one
byte (0: a frame, 1: the reason why there is none, as JSON), its length (8 bytes, little endian) and its bytes.
The program ends with its input.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from db.errors import Reason
from worker.images.errors import Unreadable
from worker.images.stored_frame import message_of

if TYPE_CHECKING:
    from typing import BinaryIO

#: Bytes of the process: the largest frame (80 million) several times. Mapped files do not count.
MAX_BYTES = 1 << 30


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        kind, body = _answer(line)
        answers.write(struct.pack("<BQ", kind, len(body)))
        answers.write(body)
        answers.flush()


def _answer(line: bytes) -> tuple[int, bytes]:
    asked = json.loads(line)
    try:
        return 0, message_of(Path(asked["path"]), asked["frame"])
    except Unreadable as problem:
        reason, detail = problem.reason, problem.detail
    except MemoryError:
        reason, detail = Reason.TOO_LARGE, "decoding it needs too much memory"
    except OSError:
        reason, detail = Reason.MISSING, "the stored file cannot be read"
    except Exception:  # noqa: BLE001 - the boundary of the process: one damaged file must not end it
        reason, detail = Reason.UNDECODABLE, "the image cannot be decoded"
    return 1, json.dumps({"reason": reason, "detail": detail}).encode()


def _main() -> None:
    # The API ends it by closing its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    _main()
