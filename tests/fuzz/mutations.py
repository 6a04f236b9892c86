"""Sessions of a sender, and their mutations: PDU, PDV, DIMSE and negotiation layer."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.fuzz import wire
from tests.fuzz.wire import COMMAND, LAST, P_DATA_TF, pdu, pdv

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

#: Lengths at which parsers fail.
LENGTHS = (0, 1, 2, 5, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF)
INVALID_UIDS = (
    "",
    "../../../x",
    "/etc/passwd",
    "1.2\0.3",
    "1." + "2" * 70,
    "1..2",
    "a.b",
    "1.2.3 ",
    "\x1b[2J",
    "1.2.é",
)
INVALID_TITLES = (b"", bytes(range(16)), b"\x1b[2J\r\n", b" " * 16, b"\xff" * 16, b"%s%n", b"../../x")
#: Bytes of an A-ASSOCIATE-RQ before its items; items that have items, by the bytes before those.
ITEMS_AT = 68
NESTED = {0x20: 4, 0x50: 0}
#: Bytes of a data set in one P-DATA-TF.
STEP = 16000


@dataclass
class Pdv:
    """A presentation data value, not yet encoded; *length* replaces the true one."""

    context_id: int
    control: int
    fragment: bytes
    length: int | None = None


@dataclass
class Pdu:
    """A PDU, not yet encoded; *length* replaces the true one."""

    kind: int
    content: bytes | list[Pdv]
    length: int | None = None

    def encode(self) -> bytes:
        content = self.content
        if isinstance(content, list):
            content = b"".join(pdv(one.context_id, one.control, one.fragment, one.length) for one in content)
        return pdu(self.kind, content, self.length)


Session = list[Pdu]


def session(random: Random) -> Session:
    """Return a valid session: associate, some C-ECHOs and C-STOREs, release."""
    associate = wire.associate_rq()
    pdus = [Pdu(wire.ASSOCIATE_RQ, associate[6:])]
    for number in range(random.randint(1, 4)):
        uid = f"1.2.826.{random.getrandbits(60)}.{number}"
        if random.random() < 0.3:
            pdus.append(Pdu(P_DATA_TF, [Pdv(1, COMMAND | LAST, wire.c_echo_rq())]))
        else:
            pdus += store(uid, wire.ct_slice(uid, pixels=random.choice((0, 64, 5000, 60_000))))
    return [*pdus, Pdu(wire.RELEASE_RQ, bytes(4))]


def store(uid: str, data_set: bytes) -> Session:
    """Return the PDUs of a C-STORE."""
    fragments = [data_set[at : at + STEP] for at in range(0, len(data_set), STEP)]
    pdvs = [Pdv(3, LAST if fragment is fragments[-1] else 0, fragment) for fragment in fragments]
    return [
        Pdu(P_DATA_TF, [Pdv(3, COMMAND | LAST, wire.c_store_rq(uid))]),
        *(Pdu(P_DATA_TF, [value]) for value in pdvs),
    ]


def mutate(pdus: Session, random: Random) -> list[str]:
    """Apply one to three mutations to *pdus*; returns their names."""
    chosen = random.choices(MUTATIONS, k=random.randint(1, 3))
    for mutation in chosen:
        mutation(pdus, random)
    return [mutation.__name__ for mutation in chosen]


def falsify_a_pdu_length(pdus: Session, random: Random) -> None:
    one = random.choice(pdus)
    true = len(one.encode()) - 6
    one.length = random.choice((*LENGTHS, true - 1, true + 1, true + 2)) & 0xFFFFFFFF


def falsify_a_pdv_length(pdus: Session, random: Random) -> None:
    one = _pdv(pdus, random)
    true = len(one.fragment) + 2
    one.length = random.choice((*LENGTHS, true - 1, true + 1, true + 5)) & 0xFFFFFFFF


def use_another_context(pdus: Session, random: Random) -> None:
    _pdv(pdus, random).context_id = random.choice((0, 1, 2, 3, 5, 255))


def flip_a_control_header(pdus: Session, random: Random) -> None:
    _pdv(pdus, random).control ^= random.choice((COMMAND, LAST, COMMAND | LAST, 0xFC))


def flip_bytes_of_a_pdv(pdus: Session, random: Random) -> None:
    one = _pdv(pdus, random)
    one.fragment = _flipped(one.fragment, random)


def flip_bytes_of_a_pdu(pdus: Session, random: Random) -> None:
    one = random.choice(pdus)
    encoded = one.encode()
    one.kind, one.content = encoded[0], _flipped(encoded[6:], random)


def truncate_a_pdv(pdus: Session, random: Random) -> None:
    one = _pdv(pdus, random)
    one.fragment = one.fragment[: random.randint(0, len(one.fragment))]


def split_a_pdv(pdus: Session, random: Random) -> None:
    values = random.choice(_lists(pdus))
    at = random.randrange(len(values))
    one = values[at]
    middle = random.randint(0, len(one.fragment))
    first = Pdv(one.context_id, one.control & ~LAST, one.fragment[:middle])
    values[at : at + 1] = [first, Pdv(one.context_id, one.control, one.fragment[middle:])]


def drop_a_pdu(pdus: Session, random: Random) -> None:
    if len(pdus) > 1:
        del pdus[random.randrange(len(pdus))]


def repeat_a_pdu(pdus: Session, random: Random) -> None:
    pdus.insert(random.randrange(len(pdus) + 1), random.choice(pdus))


def swap_two_pdus(pdus: Session, random: Random) -> None:
    first, second = random.randrange(len(pdus)), random.randrange(len(pdus))
    pdus[first], pdus[second] = pdus[second], pdus[first]


def insert_an_unexpected_pdu(pdus: Session, random: Random) -> None:
    kind = random.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 255))
    pdus.insert(random.randrange(len(pdus) + 1), Pdu(kind, random.randbytes(random.choice((0, 4, 70)))))


def use_an_invalid_uid(pdus: Session, random: Random) -> None:
    uid, other = random.choice(INVALID_UIDS), f"1.2.{random.getrandbits(40)}"
    data_set = wire.ct_slice(
        random.choice((uid, other)), study=random.choice((uid, "1.2.3")), series=random.choice((uid, "1.2.4"))
    )
    pdus[-1:-1] = store(random.choice((uid, other)), data_set)


def use_an_invalid_title(pdus: Session, random: Random) -> None:
    content = wire.associate_rq(called=random.choice(INVALID_TITLES)[:16], calling=random.choice(INVALID_TITLES)[:16])
    pdus[0] = Pdu(wire.ASSOCIATE_RQ, content[6:])


def propose_invalid_contexts(pdus: Session, random: Random) -> None:
    contexts = tuple(
        (
            random.randrange(256),
            random.choice((wire.CT_IMAGE_STORAGE, "", "1.2.3.4", "x" * 90)),
            ("1.2", "")[: _k(random)],
        )
        for _ in range(random.choice((0, 1, 60, 200)))
    )
    pdus[0] = Pdu(wire.ASSOCIATE_RQ, wire.associate_rq(contexts)[6:])


def drop_or_repeat_an_item(pdus: Session, random: Random) -> None:
    """Change an item of the request, or an item within one."""
    content = wire.associate_rq()[6:]
    items = _items(content[ITEMS_AT:])
    if random.random() < 0.5:
        _drop_or_repeat(items, random)
    else:
        at = random.choice([at for at, one in enumerate(items) if one[0] in NESTED])
        head = NESTED[items[at][0]]
        inner = _items(items[at][4 + head :])
        _drop_or_repeat(inner, random)
        items[at] = wire.item(items[at][0], items[at][4 : 4 + head] + b"".join(inner))
    pdus[0] = Pdu(wire.ASSOCIATE_RQ, content[:ITEMS_AT] + b"".join(items))


def nest_deeply(pdus: Session, random: Random) -> None:
    level = struct.pack("<HH2sHIHHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    uid = f"1.2.{random.getrandbits(40)}"
    pdus[-1:-1] = store(uid, wire.ct_slice(uid) + level * random.choice((10, 100, 3000)))


def send_many_tiny_elements(pdus: Session, random: Random) -> None:
    uid = f"1.2.{random.getrandbits(40)}"
    tiny = struct.pack("<HH2sH", 0x7FE1, 0x0010, b"LO", 0) * random.choice((1000, 30_000))
    pdus[-1:-1] = store(uid, wire.ct_slice(uid) + tiny)


MUTATIONS: tuple[Callable[[Session, Random], None], ...] = (
    falsify_a_pdu_length,
    falsify_a_pdv_length,
    use_another_context,
    flip_a_control_header,
    flip_bytes_of_a_pdv,
    flip_bytes_of_a_pdu,
    truncate_a_pdv,
    split_a_pdv,
    drop_a_pdu,
    repeat_a_pdu,
    swap_two_pdus,
    insert_an_unexpected_pdu,
    use_an_invalid_uid,
    use_an_invalid_title,
    propose_invalid_contexts,
    drop_or_repeat_an_item,
    nest_deeply,
    send_many_tiny_elements,
)


def _k(random: Random) -> int:
    return random.randint(0, 2)


def _lists(pdus: Session) -> list[list[Pdv]]:
    """Return the contents that consist of PDVs; an empty one if mutations left none."""
    return [one.content for one in pdus if isinstance(one.content, list) and one.content] or [[Pdv(1, 0, b"")]]


def _pdv(pdus: Session, random: Random) -> Pdv:
    return random.choice(random.choice(_lists(pdus)))


def _items(content: bytes) -> list[bytes]:
    """Return the items that *content* consists of, with their headers."""
    found = []
    while content:
        (length,) = struct.unpack_from(">H", content, 2)
        found.append(content[: 4 + length])
        content = content[4 + length :]
    return found


def _drop_or_repeat(items: list[bytes], random: Random) -> None:
    at = random.randrange(len(items))
    if random.random() < 0.5:
        del items[at]
    else:
        items.insert(random.randrange(len(items) + 1), items[at])


def _flipped(content: bytes, random: Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(random.randint(1, 8) if content else 0):
        flipped[random.randrange(len(flipped))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return bytes(flipped)
