from __future__ import annotations

import datetime as dt
import hashlib

import pytest
from sqlalchemy import select

from db.access import keys
from db.models import ApiKey
from db.session import transaction


def test_new_key_has_its_name_and_scopes(database_url: str) -> None:
    with transaction(database_url) as session:
        key = keys.create(session, "reading room")
        holder = keys.verify(session, key)

    assert holder is not None
    assert (holder.name, set(holder.scopes)) == ("reading room", {"read", "worklist", "reports", "images"})


def test_key_is_a_prefix_and_32_random_bytes(database_url: str) -> None:
    with transaction(database_url) as session:
        first, second = keys.create(session, "first"), keys.create(session, "second")

    assert first != second
    assert first.startswith("prelim_")
    assert len(first) == len("prelim_") + 43


def test_expired_key_has_no_holder(database_url: str) -> None:
    with transaction(database_url) as session:
        ended = keys.create(session, "ended", valid_for=dt.timedelta(seconds=-1))
        valid = keys.create(session, "valid", valid_for=dt.timedelta(days=1))

        assert keys.verify(session, ended) is None
        assert keys.verify(session, valid) is not None


def test_listed_keys_show_state_and_no_text(database_url: str) -> None:
    with transaction(database_url) as session:
        texts = [keys.create(session, "ended", valid_for=dt.timedelta(seconds=-1))]
        texts += [keys.create(session, name) for name in ("revoked", "valid")]
        keys.revoke(session, "revoked")
        found = keys.listed(session)

    assert [(key.name, key.state) for key in found] == [
        ("ended", "expired"),
        ("revoked", "revoked"),
        ("valid", "valid"),
    ]
    assert not any(text in str(found) for text in texts)


def test_only_the_digest_of_a_key_is_stored(database_url: str) -> None:
    with transaction(database_url) as session:
        key = keys.create(session, "reading room")
        row = session.scalars(select(ApiKey)).one()

    assert row.key_sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert key not in str(vars(row))


def test_unknown_key_has_no_holder(database_url: str) -> None:
    with transaction(database_url) as session:
        key = keys.create(session, "reading room")
        assert keys.verify(session, key[:-1]) is None
        assert keys.verify(session, "") is None


def test_revoked_key_has_no_holder(database_url: str) -> None:
    with transaction(database_url) as session:
        key = keys.create(session, "reading room")
        keys.revoke(session, "reading room")
        assert keys.verify(session, key) is None


def test_second_revocation_is_rejected(database_url: str) -> None:
    with transaction(database_url) as session:
        keys.create(session, "reading room")
        keys.revoke(session, "reading room")
        with pytest.raises(keys.UnknownKey, match="reading room"):
            keys.revoke(session, "reading room")


def test_key_name_is_unique(database_url: str) -> None:
    with transaction(database_url) as session:
        keys.create(session, "reading room")
        with pytest.raises(keys.KeyNameTaken, match="replace"):
            keys.create(session, "reading room")


def test_replacement_of_a_revoked_key_is_valid_and_the_old_one_stays_invalid(database_url: str) -> None:
    with transaction(database_url) as session:
        old = keys.create(session, "demo")
        keys.revoke(session, "demo")
        new = keys.create(session, "demo", replace=True)
        assert keys.verify(session, old) is None
        assert keys.verify(session, new) is not None


def test_unknown_scope_is_rejected(database_url: str) -> None:
    with transaction(database_url) as session, pytest.raises(keys.UnknownScope, match="write"):
        keys.create(session, "reading room", ["write"])
