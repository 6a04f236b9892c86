"""The machine or container: open files, memory, processors, time zone, decoders."""

from __future__ import annotations

import datetime as dt
import os
import re
import resource
import time
import zoneinfo
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from db import container_limits
from deploy.operate.doctor import gpu
from deploy.operate.doctor.finding import Check, Finding, fault, not_checked, ok, warning

if TYPE_CHECKING:
    from deploy.operate.doctor.finding import Installation

#: Open files that suffice for the limits of connections, and open files of one association (dcm4chee uses as many).
MIN_OPEN_FILES, FILES_PER_ASSOCIATION = 4096, 4
#: Bytes for all processes but the model: listener, dispatcher, API, Flower and the embedded servers, with a margin.
BASE_BYTES = 1 << 30
#: Bytes of working memory of a slot on the CPU: images, prompt and KV cache of a small model.
SLOT_BYTES = 128 << 20
#: Share of the memory that must be available.
MIN_AVAILABLE = 0.1
#: Module of each decoder, and the compression that is read with it.
DECODERS = {"gdcm": "JPEG, JPEG-LS and JPEG 2000", "openjpeg": "JPEG 2000 and HTJ2K"}
#: Begin of a TZ without a name of a place: an abbreviation and its offset (POSIX.1, 8.3).
POSIX_RULE = re.compile(r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]+>)[+-]?\d")
#: Overcommit mode of the kernel in which a fork of Redis needs as much memory again (proc(5)).
STRICT_OVERCOMMIT = "2"


def examine_open_files(installation: Installation) -> Finding:
    """Compare the hard limit of open files, to which each process raises its own, with the associations."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(MIN_OPEN_FILES, FILES_PER_ASSOCIATION * installation.settings.dicom.max_associations)
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return ok(f"a process may open {'any number of' if hard == resource.RLIM_INFINITY else hard} files")
    return warning(
        f"a process may open {hard} files, and {needed} are wanted",
        f"raise the hard limit: `ulimit -Hn {needed}`, LimitNOFILE={needed} (systemd) or `ulimits` (compose)",
    )


def _meminfo(installation: Installation) -> dict[str, int]:
    """Return the figures of /proc/meminfo in bytes."""
    lines = (line.split() for line in (installation.system_file("proc/meminfo") or "").splitlines())
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if len(parts) > 1}


def examine_memory_limit(installation: Installation) -> Finding:
    """Compare the memory with the weights, if they are loaded there, and the slots of the worker."""
    limit = container_limits.memory(installation.root)
    if limit is None:
        return not_checked("the kernel gives no figures here")
    on_cpu = gpu.is_loaded_on_cpu(installation)
    weights = sum(path.stat().st_size for path in installation.settings.checkpoint_directory.glob("*.safetensors"))
    slots = installation.settings.queue.worker_slots
    needed = BASE_BYTES + (weights + slots * SLOT_BYTES if on_cpu else 0)
    found = f"{limit / 2**30:.1f} GiB may be used, about {needed / 2**30:.1f} GiB are needed"
    if limit >= needed:
        return ok(found)
    return fault(
        f"{found} ({slots} slots, {weights / 2**30:.1f} GiB of weights)",
        "raise the memory limit of the container, lower PRELIM_WORKER_SLOTS, or use a GPU",
    )


def examine_memory(installation: Installation) -> Finding:
    """Report a machine whose memory is almost used up."""
    figures = _meminfo(installation)
    if "MemAvailable" not in figures:
        return not_checked("the kernel gives no figures here")
    available, total = figures["MemAvailable"], figures["MemTotal"]
    found = f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB are available"
    if available >= MIN_AVAILABLE * total:
        return ok(found)
    return warning(found, "stop other programs, or add memory: the kernel ends processes when none is left")


def examine_overcommit(installation: Installation) -> Finding:
    """Report a kernel that refuses the fork with which Redis writes its file."""
    mode = (installation.system_file("proc/sys/vm/overcommit_memory") or "").strip()
    if mode != STRICT_OVERCOMMIT:
        return ok(f"vm.overcommit_memory is {mode or 'unknown'}")
    return warning("vm.overcommit_memory is 2", "set it to 1 with `sysctl vm.overcommit_memory=1`")


def examine_processors(installation: Installation) -> Finding:
    """Compare the processors with the processes of the listener and, without a GPU, the slots of the worker."""
    settings, cpus = installation.settings, container_limits.processors(installation.root)
    if settings.dicom.listener_processes is not None and settings.dicom.listener_processes > max(cpus, 1):
        return warning(
            f"{settings.dicom.listener_processes} listener processes share {cpus:g} processors",
            "unset PRELIM_LISTENER_PROCESSES, or raise the CPU limit of the container",
        )
    if cpus < 1:
        return warning(f"the processes share {cpus:g} of a processor", "raise the CPU limit of the container to 2")
    return ok(f"{cpus:g} processors may be used")


def examine_time_zone(_: Installation) -> Finding:
    """Require a known time zone: the C library takes UTC for an unknown TZ without an error."""
    name = os.environ.get("TZ", "").lstrip(":")
    now = dt.datetime.fromtimestamp(time.time(), dt.UTC).astimezone()
    offset = now.strftime("%Z, UTC%z")
    if name and not _is_known_zone(name, now):
        return warning(f"TZ is {name}, which is unknown here: times are printed as {offset}", "correct TZ, or unset it")
    return ok(f"times are printed in {offset}, and stored as instants")


def _is_known_zone(name: str, now: dt.datetime) -> bool:
    """Return whether the C library knows the zone: a file, a rule as CET-1CEST (POSIX), or a name with its offset."""
    if name.startswith("/"):
        return Path(name).is_file()
    if POSIX_RULE.match(name):
        return True
    try:
        return zoneinfo.ZoneInfo(name).utcoffset(now) == now.utcoffset()
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False


def examine_decoders(_: Installation) -> Finding:
    """Find decoders of compressed images that are not installed."""
    missing = {name: use for name, use in DECODERS.items() if find_spec(name) is None}
    if not missing:
        return ok(f"decoders are installed: {', '.join(DECODERS)}")
    uses = "; ".join(f"{name} ({use})" for name, use in missing.items())
    return warning(
        f"not installed: {uses}", "install Prelim with all its dependencies; images of that kind are left out"
    )


CHECKS = (
    Check("open_files", "a process without free descriptors refuses connections", examine_open_files),
    Check("memory_limit", "the kernel ends a process at its limit, with the reports it writes", examine_memory_limit),
    Check("memory", "the kernel ends a process when the memory of the machine is used up", examine_memory),
    Check("overcommit", "Redis forks to write its file, and would fail at that", examine_overcommit),
    Check("processors", "processes that share a processor wait for each other", examine_processors),
    Check("time_zone", "a person compares printed times with a clock", examine_time_zone),
    Check("decoders", "an image that cannot be decoded is in no report", examine_decoders),
)
