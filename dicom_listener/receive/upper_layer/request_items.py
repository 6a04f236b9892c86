"""Check the items of an A-ASSOCIATE-RQ (PS3.8 9.3.2): of several, pynetdicom takes the last one, and it misses none."""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING

from dicom_listener.receive.pdus import INVALID_PARAMETER, Abort

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Type and length of an item.
ITEM_HEADER = struct.Struct(">BxH")
#: Bytes before the items: versions, AE titles and reserved ones; in a presentation context: its id and reserved ones.
FIXED_BYTES, CONTEXT_FIXED_BYTES = 68, 4
PRESENTATION_CONTEXT, ABSTRACT_SYNTAX = 0x20, 0x30
#: Items that a request has once.
ONCE = {0x10: "application context", 0x50: "user information"}


def check(content: memoryview) -> None:
    """Raise Abort if an item is missing, stands twice or exceeds the PDU, or two presentation contexts have one id.

    The items inside the user information are left to pynetdicom: equipment in use leaves some out.
    """
    items = list(_items(content[FIXED_BYTES:]))
    numbers = Counter(kind for kind, _ in items)
    for kind, name in ONCE.items():
        if numbers[kind] != 1:
            raise Abort(f"{numbers[kind]} items of the {name} instead of one", INVALID_PARAMETER)
    contexts = [value for kind, value in items if kind == PRESENTATION_CONTEXT]
    for context in contexts:
        _check_context(context)
    if len({context[0] for context in contexts}) < len(contexts):
        raise Abort("two presentation contexts with one id", INVALID_PARAMETER)


def _check_context(context: memoryview) -> None:
    abstract = [value for kind, value in _items(context[CONTEXT_FIXED_BYTES:]) if kind == ABSTRACT_SYNTAX]
    if len(abstract) != 1 or not bytes(abstract[0]).strip(b"\0 "):
        raise Abort("a presentation context without one abstract syntax", INVALID_PARAMETER)


def _items(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield type and value of each item; fewer bytes than a header at the end are no item. Raises Abort."""
    offset = 0
    while offset + ITEM_HEADER.size <= len(content):
        kind, length = ITEM_HEADER.unpack_from(content, offset)
        end = offset + ITEM_HEADER.size + length
        if end > len(content):
            raise Abort("an item that is longer than its PDU", INVALID_PARAMETER)
        yield kind, content[offset + ITEM_HEADER.size : end]
        offset = end
