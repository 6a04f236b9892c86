"""Decode a frame that the first decoder has refused by another one, in a process of its own.

Decoders differ in what they accept: CharLS in pyjpegls refuses a byte of padding before the end marker, that of GDCM
reads it. GDCM ends the process for some damaged frames, which would cost a worker its model; so a second decoder runs
in a child, with limits on time and memory. It starts in about half a second, only for frames that would be left out.
Run as a program, this module is the child: options and frame on standard input, description and samples on standard
output.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

#: Seconds for one frame, the start of Python included: the largest frame allowed takes about 5 s.
_TIMEOUT_SECONDS = 30
#: Address space of the child: a frame of 80 million bytes several times, and the libraries.
_MAX_BYTES = 4 << 30


def decode_in_child(
    frame: bytes, transfer_syntax_uid: str, plugin: str, options: dict[str, Any], *, sequential: bool
) -> tuple[npt.NDArray[Any], str] | None:
    """Return samples and photometric interpretation by a *plugin* of pydicom; None if it refuses the frame.

    A *sequential* codestream is also checked for damage and truncation: jpeg_integrity.py.
    """
    task = json.dumps({"uid": transfer_syntax_uid, "plugin": plugin, "options": options, "sequential": sequential})
    command = [sys.executable, "-m", __name__]
    try:
        child = subprocess.run(
            command, input=task.encode() + b"\n" + frame, capture_output=True, timeout=_TIMEOUT_SECONDS, check=True
        )
        head, _, samples = child.stdout.partition(b"\n")
        found = json.loads(head)
        return np.frombuffer(samples, found["dtype"]).reshape(found["shape"]), found["photometric"]
    except (subprocess.SubprocessError, ValueError, KeyError):
        return None


def _main() -> None:
    head, _, frame = sys.stdin.buffer.read().partition(b"\n")
    task = json.loads(head)
    samples, photometric = _decode(task, frame)
    found = {"dtype": samples.dtype.str, "shape": samples.shape, "photometric": photometric}
    sys.stdout.buffer.write(json.dumps(found).encode() + b"\n" + samples.tobytes())


def _decode(task: dict[str, Any], frame: bytes) -> tuple[npt.NDArray[Any], str]:
    from pydicom.encaps import encapsulate  # noqa: PLC0415 - only in the child
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    from worker.images.decode.codestream import inspect  # noqa: PLC0415
    from worker.images.decode.jpeg_integrity import decode_completely  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    decoder, photometric = get_decoder(UID(task["uid"])), ""

    def decode(bits: bytes) -> list[npt.NDArray[Any]]:
        nonlocal photometric
        samples, properties = decoder.as_array(
            encapsulate([bits]), index=0, raw=True, validate=False, decoding_plugin=task["plugin"], **task["options"]
        )
        photometric = str(properties["photometric_interpretation"])
        return [samples]

    samples = decode_completely(frame, inspect(frame), decode) if task["sequential"] else decode(frame)[0]
    return samples, photometric


if __name__ == "__main__":
    _main()
