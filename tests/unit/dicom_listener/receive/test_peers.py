"""The peers file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from db.errors import ConfigurationError
from dicom_listener.receive.peers import Peer, PeerDirectory, Rules, read_rules
from dicom_listener.receive.upper_layer.negotiation import (
    ADDRESS_NOT_ALLOWED,
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
    Rejection,
)

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
called = ["PRELIM", "PRELIM_TEST"]

[[peer]]
ae_title = "CT_1"
addresses = ["10.1.2.0/24", "fd00::/8"]
host = "10.1.2.7"
port = 104

[[peer]]
ae_title = "ANYWHERE"
"""


def write(folder: Path, text: str = FILE) -> Path:
    path = folder / "peers.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("calling", "called", "address", "expected"),
    [
        ("CT_1", "PRELIM", "10.1.2.9", None),
        ("CT_1", "PRELIM_TEST", "fd00::1", None),
        ("ANYWHERE", "PRELIM", "192.0.2.1", None),
        ("CT_1", "PRELIM", "10.1.3.9", ADDRESS_NOT_ALLOWED),
        ("CT_2", "PRELIM", "10.1.2.9", CALLING_AE_TITLE_NOT_RECOGNIZED),
        ("CT_1", "STORESCP", "10.1.2.9", CALLED_AE_TITLE_NOT_RECOGNIZED),
    ],
)
def test_only_listed_peers_may_associate(
    tmp_path: Path, calling: str, called: str, address: str, expected: Rejection | None
) -> None:
    assert read_rules(write(tmp_path)).check(Peer("id", calling, called, address)) is expected


def test_every_peer_may_associate_without_a_file() -> None:
    assert Rules().check(Peer("id", "ANY", "THING", "192.0.2.1")) is None


def test_peer_has_the_address_in_the_file(tmp_path: Path) -> None:
    peers = read_rules(write(tmp_path)).peers
    assert peers is not None
    assert (peers["CT_1"].host, peers["CT_1"].port) == ("10.1.2.7", 104)


@pytest.mark.parametrize(
    "text",
    [
        "peers = []",
        "[[peer]]\nae = 'CT'",
        "[[peer]]\nae_title = 'CT'\naddresses = ['10.1.2.3/8']",
        "[[peer]]\nae_title = 'CT'\nhost = 'ct'",
        "no toml",
        "called = 'PRELIM'",
        "called = [1]",
        "[peer]\nae_title = 'CT'",
        "[[peer]]\nae_title = 'CT'\nhost = 'ct'\nport = '104'",
        "[[peer]]\nae_title = 'CT'\nhost = 'ct'\nport = true",
        "[[peer]]\nae_title = 'CT'\nhost = 'ct'\nport = 70000",
        "[[peer]]\nae_title = 'CT'\nsame_association = 1",
        "[[peer]]\nae_title = 'CT'\naddresses = '10.1.2.3'",
        "[[peer]]\nae_title = 'CT'\n[[peer]]\nae_title = 'CT'",
        "[[peer]]\nae_title = ''",
        "[[peer]]\naddresses = []",
    ],
)
def test_invalid_file_is_a_configuration_error_with_its_path(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"peers\.toml"):
        read_rules(write(tmp_path, text))


def test_changed_file_is_read_again_and_an_invalid_one_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path)
    directory = PeerDirectory(path)
    for text, moment in (("[[peer]]\nae_title = 'NEW'", 1), ("broken", 2)):
        path.write_text(text)
        os.utime(path, (moment, moment))
        assert directory.rules().check(Peer("id", "NEW", "PRELIM", "192.0.2.1")) is None
