"""Transfer syntaxes: the ones that are decoded, and names for the others (PS3.5 A, PS3.6 A)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
#: Of GE: Implicit VR Little Endian, but the words of Pixel Data are big endian.
GE_PRIVATE_BIG_ENDIAN = "1.2.840.113619.5.2"
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
_JPEG_FAMILY = "1.2.840.10008.1.2.4."

#: Pixel Data without fragments.
NATIVE = frozenset(
    (
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        GE_PRIVATE_BIG_ENDIAN,
    )
)
#: JPEG, also retired processes, JPEG-LS, JPEG 2000 and HTJ2K: the codestream decides which decoder reads it.
JPEG = frozenset(f"{_JPEG_FAMILY}{n}" for n in (*range(50, 67), 70, 80, 81, *range(90, 94), 201, 202, 203))
#: The complete data set is deflated: Deflated Explicit VR Little Endian, JPIP and JPIP HTJ2K Referenced Deflate.
DEFLATED = frozenset((DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, f"{_JPEG_FAMILY}95", f"{_JPEG_FAMILY}205"))
#: JPIP: the pixels are fetched from a provider (PS3.5 A.6).
REFERENCED = frozenset(f"{_JPEG_FAMILY}{n}" for n in (94, 95, 204, 205))
#: Transfer syntaxes in which an image can be decoded.
DECODED = NATIVE | JPEG | {ENCAPSULATED_UNCOMPRESSED, DEFLATED_FRAMES, RLE_LOSSLESS}

#: MPEG-2, MPEG-4, HEVC (PS3.5 A.4.5 to A.4.9) and uncompressed video over RTP (8.2.13).
_VIDEO = (f"{_JPEG_FAMILY}10", "1.2.840.10008.1.2.7.")
_STANDARD = "1.2.840.10008."
_UID = re.compile(r"[0-9.]{1,64}")
#: Names of those that pydicom's dictionary lacks or that are not decoded: a name is understood sooner than a UID.
NAMES = {
    GE_PRIVATE_BIG_ENDIAN: "GE Private Implicit VR Little Endian with Big Endian Pixel Data",
    DEFLATED_FRAMES: "Deflated Image Frame Compression",
    f"{_JPEG_FAMILY}110": "JPEG XL Lossless",
    f"{_JPEG_FAMILY}111": "JPEG XL JPEG Recompression",
    f"{_JPEG_FAMILY}112": "JPEG XL",
    "1.2.840.10008.1.2.6.1": "RFC 2557 MIME encapsulation",
    "1.2.840.10008.1.2.6.2": "XML Encoding",
    "1.2.840.10008.1.20": "Papyrus 3 Implicit VR Little Endian",
}
#: Roots of organizations whose private transfer syntaxes are in use.
_OWNERS = {
    "1.2.840.113619.": "GE",
    "1.3.46.670589.": "Philips",
    "1.3.12.2.1107.": "Siemens",
    "1.2.392.200036.": "a Japanese manufacturer",
    "1.2.840.113704.": "Philips",
}


def is_video(uid: str) -> bool:
    """Return whether a transfer syntax holds a video."""
    return uid.startswith(_VIDEO)


def is_standard(uid: str) -> bool:
    """Return whether the UID is one of DICOM's own; others are private."""
    return uid.startswith(_STANDARD)


def described(uid: str) -> str:
    """Return name or owner of a transfer syntax, and its UID."""
    if not _UID.fullmatch(uid):
        return "with a malformed UID"
    name = NAMES.get(uid) or next((f"private, of {_OWNERS[root]}" for root in _OWNERS if uid.startswith(root)), "")
    return f"{uid} ({name})" if name else uid


def chosen(proposed: Sequence[str]) -> str:
    """Return the transfer syntax to accept: the first one proposed that is decoded, else the first one.

    The order is no preference of the standard (PS3.8 9.3.2.2), but senders name the object's own encoding first: in it
    they send the stored bytes. Another one is accepted if only that one can be decoded, except for video: no sender
    converts it.
    """
    return next((uid for uid in proposed if uid in DECODED or is_video(uid)), proposed[0])
