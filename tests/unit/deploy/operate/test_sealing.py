"""Encryption of backups: what is read is what was written, or an error."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import pytest

from db.errors import ConfigurationError
from deploy.operate.backup import sealing
from deploy.operate.backup.sealing import BackupDamaged, Content

if TYPE_CHECKING:
    from pathlib import Path

KEY = bytes(range(32))
SIZES = (0, 1, 15, 16, 17, 32, 40)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "CHUNK", 16)


def sealed(folder: Path, content: bytes, name: str = "a.dcm") -> Path:
    path = folder / "sealed"
    with path.open("wb") as target:
        sealing.seal(io.BytesIO(content), target, KEY, name)
    return path


def unsealed(path: Path, key: bytes = KEY, name: str = "a.dcm") -> bytes:
    target = io.BytesIO()
    with path.open("rb") as source:
        found = sealing.unseal(source, target, key, name)
    assert found == Content(len(target.getvalue()), hashlib.sha256(target.getvalue()).hexdigest())
    return target.getvalue()


@pytest.mark.parametrize("size", SIZES)
def test_content_is_read_back(tmp_path: Path, size: int) -> None:
    content = bytes(range(size))
    path = sealed(tmp_path, content)

    assert unsealed(path) == content
    with path.open("rb") as source:
        assert sealing.content(source, KEY, "a.dcm") == Content(size, hashlib.sha256(content).hexdigest())


def test_patient_data_is_not_readable_in_the_file(tmp_path: Path) -> None:
    assert b"Roe^Rita" not in sealed(tmp_path, b"Roe^Rita" * 10).read_bytes()


def test_each_changed_byte_is_damage(tmp_path: Path) -> None:
    path = sealed(tmp_path, bytes(20))
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(BackupDamaged):
            unsealed(path)


def test_each_missing_end_and_exchanged_chunk_is_damage(tmp_path: Path) -> None:
    path = sealed(tmp_path, bytes(40))
    whole = path.read_bytes()
    first, second = (whole[sealing.HEAD + 32 * number :][:32] for number in (0, 1))
    others = [whole[:end] for end in range(len(whole))] + [whole.replace(first + second, second + first)]
    for other in others:
        path.write_bytes(other)
        with pytest.raises(BackupDamaged):
            unsealed(path)


def test_file_of_another_name_or_key_is_damage(tmp_path: Path) -> None:
    path = sealed(tmp_path, b"content")
    with pytest.raises(BackupDamaged):
        unsealed(path, name="b.dcm")
    with pytest.raises(BackupDamaged, match="encrypted with another key"):
        unsealed(path, key=bytes(32))


@pytest.mark.parametrize("text", [None, "", "00" * 31, "zz" * 32])
def test_invalid_key_is_refused_with_the_way_to_make_one(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "key"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match="openssl rand -hex 32"):
        sealing.read_key(path)


def test_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY.hex() + "\n")
    assert sealing.read_key(tmp_path / "key") == KEY
