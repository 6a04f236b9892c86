"""The disk of the data directory: room, hard links, durability, growth."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from db.operations import disk
from deploy.operate.doctor.finding import Check, Finding, Level, fault, not_checked, ok, warning
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.file_system import probe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from db.settings import Settings
    from deploy.operate.doctor.finding import Installation

#: File systems in memory, or in the layer of a container: what they hold ends with the machine or the container.
VOLATILE = frozenset(("tmpfs", "ramfs", "overlay", "aufs"))
#: File systems of another machine that keep what PostgreSQL and the spool need: hard links, locks, flushes.
NETWORK = frozenset(("nfs", "nfs4"))
#: Those of which at least one of these is missing, or depends on settings that cannot be seen here.
UNSUITABLE = frozenset(
    (
        *("9p", "cifs", "exfat", "fuseblk", "smb3", "smbfs", "vboxsf", "vfat", "virtiofs"),
        *("fuse.encfs", "fuse.gcsfuse", "fuse.geesefs", "fuse.mergerfs", "fuse.mount-s3", "fuse.rclone"),
        *("fuse.s3fs", "fuse.sshfs"),
    )
)
#: Mount options of NFS with which a write can be lost, and with which locks do not reach other machines.
SOFT, LOCAL_LOCKS = {"soft", "softerr"}, {"nolock", "local_lock=all", "local_lock=flock", "local_lock=posix"}
#: Seconds for writing, flushing and linking one small file; a receiver waits for it with each object.
MAX_PROBE_SECONDS = 0.5
#: Days of received objects for which there must be room.
MIN_DAYS = 7
#: Days of reception from which a rate is told, and rows that are read for it.
MIN_MEASURED_DAYS, MAX_OBJECTS = 0.5, 200_000
#: Bytes of a log of the embedded servers, which is not rotated.
MAX_LOG_BYTES = 256 << 20
MARKS = (
    "delete old studies with `prelim retain`, enlarge the disk, or raise PRELIM_WARN_DISK_PERCENT and"
    " PRELIM_URGENT_ONLY_DISK_PERCENT"
)


def existing(directory: Path) -> Path:
    """Return the directory that a path leads to, or the parent in which it will be created."""
    resolved = directory.resolve()
    return next(path for path in (resolved, *resolved.parents) if path.exists())


def worst(installation: Installation, judge: Callable[[Path], Finding]) -> Finding:
    """Return the worst finding for the data directory, with the databases, and the spool: that may be another disk."""
    settings = installation.settings
    found = [judge(directory) for directory in (settings.operations.data_dir, settings.spool)]
    return max(found, key=lambda finding: list(Level).index(finding.level))


def examine_space(installation: Installation) -> Finding:
    """Compare the free bytes with the reserve at which objects are refused, and the used share with the marks."""
    return worst(installation, lambda directory: _space(installation.settings, directory))


def _space(settings: Settings, directory: Path) -> Finding:
    measured = disk.measure(existing(directory))
    free, used = measured.bytes, f"{measured.used_percent:.0f} % are used"
    found = f"{free >> 20} MiB are free on the disk of {directory}"
    if free < disk.RESERVED_BYTES:
        return fault(
            f"{found}, and nothing is received below {disk.RESERVED_BYTES >> 20} MiB",
            "free space, or set PRELIM_DATA_DIR to a larger disk",
        )
    if free < disk.LOW_FACTOR * disk.RESERVED_BYTES:
        return warning(f"{found}, little more than the reserve", disk.REMEDY)
    if measured.used_percent >= settings.dicom.urgent_only_disk_percent:
        return warning(f"{found}, {used}: routine objects are refused", MARKS)
    if measured.used_percent >= settings.dicom.warn_disk_percent:
        return warning(f"{found}, {used}", MARKS)
    return ok(found)


def examine_inodes(installation: Installation) -> Finding:
    """Compare the free inodes with the reserve."""
    return worst(installation, _inodes)


def _inodes(directory: Path) -> Finding:
    free = disk.measure(existing(directory)).inodes
    if free is None:
        return ok("the file system has no fixed number of inodes")
    found = f"{free} inodes are free on the disk of {directory}"
    if free < disk.LOW_FACTOR * disk.RESERVED_INODES:
        level = fault if free < disk.RESERVED_INODES else warning
        return level(f"{found}, and nothing is received below {disk.RESERVED_INODES}", disk.REMEDY)
    return ok(found)


def examine_links(installation: Installation) -> Finding:
    """Require one file system for all folders of the spool: files are linked from one to the other."""
    spool = Spool(installation.settings.spool)
    if not spool.root.exists():
        return ok("no spool yet: the first start creates it on one file system")
    home = spool.root.stat().st_dev
    folders = [spool.store, spool.quarantine, *(slot.inbox for slot in spool.slots())]
    elsewhere = [folder for folder in folders if folder.exists() and folder.stat().st_dev != home]
    if elsewhere:
        return fault(
            f"{elsewhere[0]} is on another file system than {spool.root}",
            "put inbox, store and quarantine on one file system, below PRELIM_DATA_DIR",
        )
    return ok(f"all folders of {spool.root} are on one file system")


def examine_writes(installation: Installation) -> Finding:
    """Write, flush, link and remove a small file in the spool, as the listener and the indexer do."""
    spool = Spool(installation.settings.spool)
    if not (spool.store / "00").is_dir():
        return not_checked("no spool yet: the first start creates it")
    began = time.monotonic()
    try:
        probe(spool)
    except OSError as error:
        return fault(f"a file cannot be written and linked in {spool.root}: {error.strerror}", _remedy(error))
    seconds = time.monotonic() - began
    found = f"a file is written, flushed and linked in {seconds * 1000:.0f} ms"
    if seconds < MAX_PROBE_SECONDS:
        return ok(found)
    return warning(found, "use a local disk with a write cache that survives a power cut, or find what loads this one")


def _remedy(error: OSError) -> str:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "give the folders to the user of Prelim with `chown -R`, on a file system with hard links"
    if error.errno == errno.EROFS:
        return "mount it writable; a disk with errors is mounted read-only by the kernel (see `dmesg`)"
    return "check disk, quota and mount; `prelim listen` refuses objects until it works"


def examine_file_system(installation: Installation) -> Finding:
    """Report data or spool in memory, in the layer of a container, or on a file system of another machine."""
    mounts = installation.system_file("proc/self/mountinfo") or ""
    return worst(installation, lambda directory: _file_system(existing(directory), mounts))


def _file_system(directory: Path, mounts: str) -> Finding:
    mount = _mount(directory, mounts)
    if mount is None:
        return not_checked("the kernel lists no mounts here")
    kind, options = mount
    if kind in VOLATILE:
        return fault(
            f"{directory} is on {kind}: its files end with the machine or the container",
            "mount a volume there, or set PRELIM_DATA_DIR to a directory on a disk",
        )
    if kind in UNSUITABLE:
        return warning(
            f"{directory} is on {kind}, of which hard links, locks or flushes cannot be relied on",
            "use a local disk with ext4 or XFS, or NFS 4 mounted with `hard`",
        )
    return _on_network(f"{directory} is on {kind}", options) if kind in NETWORK else ok(f"{directory} is on {kind}")


def _on_network(found: str, options: set[str]) -> Finding:
    """Judge the options of an NFS mount; those of the export cannot be seen from here."""
    if lost := options & SOFT:
        return fault(f"{found}, mounted with `{min(lost)}`: a slow server loses writes", "mount it with `hard`")
    if local := options & LOCAL_LOCKS:
        return fault(
            f"{found}, mounted with `{min(local)}`: listeners of two machines could use the same slot",
            "mount it without that option",
        )
    server = next((option.removeprefix("addr=") for option in options if option.startswith("addr=")), "its server")
    return not_checked(
        f"{found}; whether a crash of the server loses acknowledged objects can be seen there only: on {server},"
        " `exportfs -v` must list `sync` (not `async`) and `no_root_squash` for it; the option `sync` of this mount"
        " changes nothing about that"
    )


def _mount(directory: Path, mounts: str) -> tuple[str, set[str]] | None:
    """Return type and options of the file system with the longest mount point above *directory* (mountinfo)."""
    found = {}
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        kind, *_, options = right.split()
        # Spaces in names are written as octal escapes; later lines hide earlier ones.
        found[left.split()[4].replace("\\040", " ")] = kind, set(options.split(","))
    above = [directory, *directory.parents]
    return next((found[str(path)] for path in above if str(path) in found), None)


def examine_growth(installation: Installation) -> Finding:
    """Compare the free space with the objects received in the last week, the latest MAX_OBJECTS at most."""
    received, days = installation.row(
        "SELECT coalesce(sum(file_bytes), 0)::float, extract(epoch FROM now() - min(indexed_at))::float / 86400"
        " FROM (SELECT file_bytes, indexed_at FROM instances ORDER BY id DESC LIMIT :most) AS latest"
        " WHERE indexed_at > now() - interval '7 days'",
        most=MAX_OBJECTS,
    )
    if not received or days < MIN_MEASURED_DAYS:
        return not_checked("too little was received in the last week to tell the rate")
    percent = installation.settings.dicom.urgent_only_disk_percent
    left = disk.room(existing(installation.settings.spool), percent) / (received / days)
    found = (
        f"{received / days / 2**30:.2f} GiB a day in the last {days:.1f} days: room for {left:.0f} more days until"
        f" {percent:g} % are used, from which routine objects are refused"
    )
    if left >= MIN_DAYS:
        return ok(found)
    return warning(found, "enlarge the disk, or delete old studies with `prelim retain`")


def examine_logs(installation: Installation) -> Finding:
    """Measure the logs of the embedded servers, which are not rotated."""
    data = installation.settings.operations.data_dir
    sizes = {
        path: path.stat().st_size for path in (data / "postgres" / "log", data / "redis" / "log") if path.is_file()
    }
    large = [path for path, size in sizes.items() if size > MAX_LOG_BYTES]
    if large:
        return warning(f"{large[0]} has {sizes[large[0]] >> 20} MiB", f"truncate it: `truncate --size=0 {large[0]}`")
    return ok(f"{sum(sizes.values()) >> 20} MiB of logs of the embedded servers")


CHECKS = (
    Check("disk_space", "the listener refuses objects on a full disk", examine_space),
    Check("disk_inodes", "each file needs an inode, also a small one", examine_inodes),
    Check("disk_links", "a received file reaches its place in the store by a hard link", examine_links),
    Check("disk_writes", "an object is acknowledged only after it was flushed to this disk", examine_writes),
    Check("disk_file_system", "received studies must survive a restart", examine_file_system),
    Check("disk_growth", "a disk that fills within days needs action now", examine_growth),
    Check("log_files", "a log that grows without limit fills the disk", examine_logs),
)
