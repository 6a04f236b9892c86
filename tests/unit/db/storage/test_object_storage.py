"""Settings, keys and alarms of the object storage, without a service."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from pydantic import ValidationError

from db.settings import Settings
from db.storage import bucket, moves, object_files
from db.storage.moves import Waiting
from db.storage.signing import Credentials
from tests import together

KEYS = {"storage_access_key": "a", "storage_secret_key": "s"}


@pytest.mark.parametrize(
    "values",
    [
        {"storage_url": "s3://bucket/prefix"},
        {"storage_url": "s3://bucket/prefix", "storage_access_key": "a"},
        {"storage_url": "s3://key:secret@bucket/prefix", **KEYS},
        {"storage_url": "https://bucket/prefix", **KEYS},
        {"storage_url": "s3://b/../x", **KEYS},
        {"storage_url": "s3://bucket", "storage_endpoint": "https://key:secret@host", **KEYS},
        {"storage_url": "s3://bucket", "storage_endpoint": "https://host/path", **KEYS},
        {"storage_url": "s3://bucket", "storage_endpoint": "https://host:port", **KEYS},
    ],
)
def test_invalid_settings_are_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings(**values)


@pytest.mark.parametrize(
    ("url", "prefix"), [("s3://bucket", ""), ("s3://bucket/a/b", "a/b/"), ("s3://bucket/a/", "a/")]
)
def test_prefix_of_keys_ends_with_a_slash(url: str, prefix: str) -> None:
    assert Settings(storage_url=url, **KEYS).storage.prefix == prefix


def test_key_is_the_path_below_the_store() -> None:
    assert object_files.key("spool/store/ab/abc.dcm") == "ab/abc.dcm"
    assert object_files.file_path("ab/abc.dcm") == "spool/store/ab/abc.dcm"
    with pytest.raises(ValueError, match="not in the subpath"):
        object_files.key("spool/quarantine/abc.dcm")


def test_no_text_shows_a_key() -> None:
    settings = Settings(storage_url="s3://bucket", storage_access_key="AKIA1", storage_secret_key="hidden")
    assert "hidden" not in repr(settings) + repr(Credentials("AKIA1", "hidden", "us-east-1"))


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (Waiting(0, 0, 0), ""),
        (Waiting(5, 299, 0), ""),
        (Waiting(5, 301, 0), "storage_waiting"),
        (Waiting(0, -3000, 1), "storage_refused"),
    ],
)
def test_alarm_for_files_that_are_not_moved(found: Waiting, code: str) -> None:
    alarm = moves.alarm(found, 300)
    assert (alarm[0] if alarm else "") == code


def test_listener_imports_no_client_of_the_object_storage() -> None:
    program = "import sys, dicom_listener.receive.prefork.parent, dicom_listener.receive.listener\n"
    program += "print([name for name in sys.modules if name.startswith('db.storage.')])"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "s3_connections" not in printed
    assert "bucket" not in printed


def test_threads_that_begin_together_share_one_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(storage_url="s3://bucket-of-all-threads", **KEYS)
    init = bucket.Bucket.__init__

    def init_slowly(self: bucket.Bucket, *arguments: Any) -> None:
        time.sleep(0.2)
        init(self, *arguments)

    monkeypatch.setattr(bucket.Bucket, "__init__", init_slowly)

    assert len({id(found) for found in together.called(lambda: object_files.bucket(settings))}) == 1
