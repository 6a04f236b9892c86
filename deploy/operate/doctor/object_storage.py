"""The object storage: it can be reached, keeps conditions and checksums, and has the time."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import uuid
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from db.storage import object_files
from db.storage.errors import Unavailable
from deploy.operate.doctor.finding import Check, Finding, NotChecked, fault, ok, warning
from dicom_listener.recovery import lost_rows

if TYPE_CHECKING:
    from db.storage.bucket import Bucket
    from deploy.operate.doctor.finding import Installation

#: Seconds by which clocks may differ: S3 refuses requests of more than 15 minutes.
MAX_DIFFERENCE_SECONDS = 300.0
#: Objects that are looked up: names are random, so that the first ones are a sample. A new one may wait for its row.
SAMPLE, UNNAMED = 1000, dt.timedelta(hours=1)
#: Content of the objects that the checks put and delete again.
FIRST, SECOND = b"prelim doctor, first\n", b"prelim doctor, second\n"


def _bucket(installation: Installation) -> Bucket:
    """Return the bucket; raises NotChecked without one."""
    found = object_files.bucket(installation.settings)
    if found is None:
        raise NotChecked("no object storage is configured")
    return found


def _reached(installation: Installation) -> Bucket:
    """Return the bucket if it answers; raises NotChecked."""
    bucket = _bucket(installation)
    try:
        bucket.require()
    except Unavailable as error:
        raise NotChecked(str(error)) from error
    return bucket


def examine_access(installation: Installation) -> Finding:
    """List the bucket and its uploads, and put, read and delete an object."""
    bucket, key = _bucket(installation), _key()
    try:
        bucket.require()
        next(bucket.uploads(), None)
        _put(bucket, key, FIRST)
        received = bytearray()
        bucket.get(key, received.extend)
        bucket.delete(key)
        stays = bucket.head(key) is not None
    except Unavailable as error:
        remedy = "check address, bucket, keys and rights; until then files wait on local disk"
        return fault(str(error), f"{remedy}, and moved studies cannot be read")
    if bytes(received) != FIRST or stays:
        return fault(f"{bucket.name} returns another content, or does not delete", "use another service")
    if not _is_encrypted(installation):
        return warning(
            f"{bucket.name} is used without encryption", "set PRELIM_STORAGE_ENDPOINT to an https:// address"
        )
    return ok(f"{bucket.name} can be listed, read and written")


def examine_condition(installation: Installation) -> Finding:
    """Put an object twice, the second time with another content."""
    bucket, key = _reached(installation), _key()
    try:
        first, second = _put(bucket, key, FIRST), _put(bucket, key, SECOND)
        received = bytearray()
        bucket.get(key, received.extend)
    finally:
        bucket.delete(key)
    if first and not second and bytes(received) == FIRST:
        return ok("an existing object is not replaced")
    return fault("the service ignores If-None-Match and replaces an existing object", "use a newer version, or another")


def examine_checksum(installation: Installation) -> Finding:
    """Put an object under the checksum of another content."""
    bucket, key = _reached(installation), _key()
    try:
        refused = bucket.refuses(key, FIRST, hashlib.sha256(SECOND).hexdigest())
        _put(bucket, key, FIRST)
        found = bucket.head(key)
    finally:
        bucket.delete(key)
    if not refused:
        return fault("the service does not verify SHA-256 checksums", "use another: a damaged upload stays unnoticed")
    if found is None or found.sha256 != hashlib.sha256(FIRST).hexdigest():
        return fault("the service does not return metadata of objects", "use another: audit and moves compare them")
    return ok("a wrong checksum is refused, and metadata is returned")


def examine_clock(installation: Installation) -> Finding:
    """Compare the clock of the service with this one."""
    seconds = _reached(installation).clock_difference()
    shown = f"the clock of the service differs by {abs(seconds):.0f} s"
    if abs(seconds) < MAX_DIFFERENCE_SECONDS:
        return ok(shown)
    return fault(shown, "synchronize both machines by NTP: the service refuses requests of another time")


def examine_prefix(installation: Installation) -> Finding:
    """Look up the rows of some objects: those without a row are of another installation, or their rows are lost."""
    bucket, before = _reached(installation), dt.datetime.now(dt.UTC) - UNNAMED
    installation.database_url()
    listed = (found for found in bucket.objects() if object_files.KEY.fullmatch(found.key))
    paths = {object_files.file_path(found.key) for found in islice(listed, SAMPLE) if found.modified_at < before}
    if not paths:
        raise NotChecked("no object is old enough to have a row for certain")
    unknown = len(paths - lost_rows.known(installation.settings, paths))
    if not unknown:
        return ok(f"each of {len(paths)} objects that were looked up has a row")
    return warning(
        f"{unknown} of {len(paths)} objects that were looked up have no row: another installation uses"
        f" {bucket.name} with this prefix, or rows are lost",
        "give each installation a prefix of its own, and before that run no `prelim audit --repair`, which would index"
        " them here; if no other one uses it, `prelim audit --repair` brings them back",
    )


def _is_encrypted(installation: Installation) -> bool:
    parts = urlsplit(installation.settings.storage.storage_endpoint or "https://")
    return parts.scheme == "https" or parts.hostname in {"127.0.0.1", "::1", "localhost"}


def _key() -> str:
    return f"doctor/{uuid.uuid4()}"


def _put(bucket: Bucket, key: str, content: bytes) -> bool:
    return bucket.put(key, io.BytesIO(content), len(content), hashlib.sha256(content).hexdigest())


CHECKS = (
    Check("storage", "files cannot be moved to the object storage, or read from it", examine_access),
    Check("storage_condition", "an upload that is repeated must not replace an object", examine_condition),
    Check("storage_checksum", "an object that arrives damaged must be refused, not stored", examine_checksum),
    Check("storage_clock", "requests are signed with the time", examine_clock),
    Check("storage_prefix", "installations that share a prefix index and delete each other's objects", examine_prefix),
)
