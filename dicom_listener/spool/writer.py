"""Write one received object to a prepared file, seal it and make it durable."""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from db.operations import disk
from dicom_listener.dicom.statuses import OutOfResources
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import COMPLETE, PART

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = structlog.get_logger()

#: Seconds for which a measured free space holds: no network fills a tenth of the reserve in so short a time.
FREE_SPACE_VALID_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Part:
    """An empty file with a durable directory entry, open for writing."""

    path: Path
    descriptor: int

    def remove(self) -> None:
        """Close and remove it; raises OSError."""
        os.close(self.descriptor)
        self.path.unlink(missing_ok=True)


class FreeSpace:
    """Measure the free space of a directory's disk at most every FREE_SPACE_VALID_SECONDS."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._valid_until = 0.0

    def check(self) -> None:
        """Raise OutOfResources if less than the reserve is free, OSError if that cannot be measured."""
        now = time.monotonic()
        if now < self._valid_until:
            return
        lacks = disk.measure(self._directory).lacks
        if lacks is not None:
            raise OutOfResources(f"the disk is full (no {lacks} beyond the reserve)")
        self._valid_until = now + FREE_SPACE_VALID_SECONDS


class SpoolWriter:
    """Write one object to the inbox: `write` its bytes as they arrive, then either `commit` or `discard`."""

    def __init__(
        self,
        part: Part,
        header: bytes,
        free_space: FreeSpace,
        *,
        committed: Callable[[Path], None],
        directory_replaced: Callable[[], None],
    ) -> None:
        """Write to *part*, *header* first.

        *committed* is called with the name of *part* once the object has a second one; *directory_replaced* if the
        directory of *part* no longer exists.
        """
        self._part = part.path
        self._descriptor: int | None = part.descriptor
        self._free_space = free_space
        self._committed = committed
        self._directory_replaced = directory_replaced
        self._header = header
        self._seal_at = len(header) - file_meta.SEAL.size
        self._crc = zlib.crc32(header[: self._seal_at])
        self._bytes = 0
        #: Received, not yet written to the disk.
        self._unwritten: list[bytes | memoryview] = [header]

    def write(self, fragment: bytes | memoryview, *, last: bool = False) -> None:
        """Append bytes of the data set; the *last* must stay unchanged until `commit`. Raises OutOfResources."""
        self._crc = zlib.crc32(fragment, self._crc)
        self._unwritten.append(fragment)
        if not last:
            with disk_errors():
                self._append()

    def commit(self, tag: str = "") -> Path:
        """Make the object durable and visible to the indexer, with *tag* in its name (dicom_listener.spool.waiting).

        Raises OutOfResources, and then it does not exist.
        """
        final = Path(f"{str(self._part).removesuffix(PART)}{tag}{COMPLETE}")
        with disk_errors(), self._discarded_on_error():
            self._append_sealed()
            os.fdatasync(self._open)
            self._close()
            os.link(self._part, final)
        self._committed(self._part)
        return final

    def discard(self) -> None:
        """Remove the object; no effect after `commit` or a first `discard`."""
        if self._descriptor is None:
            return
        try:
            try:
                self._close()
            finally:
                self._part.unlink(missing_ok=True)
        except OSError as error:  # the next start removes it
            log.warning("inbox.part_not_removed", error=error.strerror)

    @property
    def _open(self) -> int:
        assert self._descriptor is not None, "written to after commit or discard"  # noqa: S101 - a fault of the program
        return self._descriptor

    def _append_sealed(self) -> None:
        size = self._bytes + _size(self._unwritten)
        seal = file_meta.seal(size, self._crc)
        if self._bytes:
            self._append()
            os.pwrite(self._open, seal, self._seal_at)
        else:  # complete in one fragment, as small objects are
            self._unwritten[0] = self._header[: self._seal_at] + seal
            self._append()

    def _append(self) -> None:
        self._free_space.check()
        while self._unwritten:
            written = os.writev(self._open, self._unwritten)
            self._bytes += written
            # A short write: the disk fills up. The next one raises.
            rest = memoryview(b"".join(self._unwritten))[written:] if written < _size(self._unwritten) else b""
            self._unwritten = [rest] if rest else []

    def _close(self) -> None:
        descriptor, self._descriptor = self._open, None
        os.close(descriptor)

    @contextlib.contextmanager
    def _discarded_on_error(self) -> Iterator[None]:
        try:
            yield
        except (OSError, OutOfResources) as error:
            if isinstance(error, FileNotFoundError):  # the directory was replaced, and all prepared files with it
                self._directory_replaced()
            # After a failed flush the content of the file is unknown; the status makes the sender repeat it.
            self.discard()
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)
            raise


def _size(buffers: Sequence[bytes | memoryview]) -> int:
    return sum(map(len, buffers))


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Translate an OSError into the refusal for the sender."""
    try:
        yield
    except OSError as error:
        raise OutOfResources(f"the disk cannot store the object: {error.strerror}") from error
