"""Quotas of AE titles, counted by one process and by several."""

from __future__ import annotations

import pytest

from db.settings import Settings
from dicom_listener.dicom.statuses import OutOfResources
from dicom_listener.receive.intake import quotas
from dicom_listener.receive.intake.quotas import MAX_ADDRESSES, MAX_KEYS, MAX_TITLES, Quotas, Usage
from dicom_listener.receive.peers import KnownPeer, Peer

NONE = KnownPeer("CT_1")


@pytest.fixture(autouse=True)
def long_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test spans the end of a minute."""
    monkeypatch.setattr(quotas, "MINUTE", 10**9)


def peer(title: str = "CT_1", address: str = "10.0.0.1") -> Peer:
    return Peer("1", title, "PRELIM", address)


def refused(of: Quotas, sender: Peer, known: KnownPeer = NONE) -> bool:
    try:
        of.check(sender, known)
    except OutOfResources:
        return True
    return False


def test_objects_and_bytes_of_one_sender_are_limited() -> None:
    limited = Quotas(Settings(max_objects_per_minute=2, max_megabytes_per_minute=5).dicom)
    limited.count(peer(), 10)
    assert not refused(limited, peer())
    limited.count(peer(), 10)
    assert refused(limited, peer())
    assert not refused(limited, peer("CT_2"))
    assert not refused(limited, peer(address="10.0.0.2")), "an AE title is counted within its address"
    limited.count(peer("CT_2"), 5_000_000)
    assert refused(limited, peer("CT_2"))


def test_peers_file_replaces_the_quota_of_the_settings() -> None:
    limited = Quotas(Settings(max_objects_per_minute=1).dicom)
    limited.count(peer(), 10)
    assert not refused(limited, peer(), KnownPeer("CT_1", objects_per_minute=2))
    without = Quotas(Settings().dicom)
    assert not refused(without, peer(), KnownPeer("CT_1", objects_per_minute=1))
    without.count(peer(), 10)
    assert refused(without, peer(), KnownPeer("CT_1", objects_per_minute=1))


def test_new_minute_begins_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = Quotas(Settings(max_objects_per_minute=1).dicom)
    limited.count(peer(), 10)
    assert refused(limited, peer())
    monkeypatch.setattr(quotas, "MINUTE", 1e-9)
    assert not refused(limited, peer())


def test_several_processes_share_a_quota() -> None:
    limits, parent = Settings(max_objects_per_minute=4).dicom, Usage()
    children = [Quotas(limits), Quotas(limits)]
    for child in children:
        for _ in range(2):
            child.count(peer(), 10)
        assert not refused(child, peer())
        parent.include(child.take())
        assert not refused(child, peer()), "counts on their way to the parent are neither lost nor doubled"
    for child in children:
        child.replace(parent.rows())
        assert refused(child, peer())


def test_made_up_titles_share_one_count_of_their_address() -> None:
    usage = Usage()
    for number in range(MAX_TITLES + 3):
        usage.add(("10.0.0.1", f"T{number}"), 1, 1)
    assert usage.of(("10.0.0.1", "T0")) == (1, 1)
    assert usage.of(("10.0.0.1", "another")) == (3, 3)
    assert usage.of(("10.0.0.2", "another")) == (0, 0)


def test_made_up_titles_do_not_use_up_the_quota_of_another_address() -> None:
    limits, parent = Settings(max_objects_per_minute=100).dicom, Usage()
    child = Quotas(limits)
    for number in range(20 * MAX_TITLES):
        child.count(peer(f"T{number}", "10.0.0.66"), 10)
    assert refused(child, peer("NEW", "10.0.0.66"))
    for _ in range(3):
        parent.include(child.take())
    child.replace(parent.rows())
    assert refused(child, peer("NEW", "10.0.0.66")), "also as several processes count it"
    for _ in range(99):
        child.count(peer(), 10)
    assert not refused(child, peer())


def test_number_of_counts_is_limited_for_any_number_of_addresses() -> None:
    usage = Usage()
    for number in range(MAX_KEYS + 2 * MAX_ADDRESSES):
        usage.add((f"10.0.{number // 256}.{number % 256}", "CT_1"), 1, 1)
    assert usage.of(("10.0.0.0", "CT_1")) == (1, 1)
    assert usage.of(("192.168.0.1", "CT_1")) == (MAX_ADDRESSES, MAX_ADDRESSES)
