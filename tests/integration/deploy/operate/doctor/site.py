"""An installation in which every check of `prelim doctor` passes, to be broken by a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from db.access import keys
from db.session import transaction
from db.settings import Settings
from deploy.embedded.server_process import free_port
from deploy.operate.doctor.doctor import CHECKS, finding_of
from deploy.operate.doctor.finding import Installation
from dicom_listener.spool.durable import Spool
from tests.certificates import write_certificate
from worker.model.checkpoint.manifest import write_manifest

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from deploy.operate.doctor.finding import Finding
    from tests.object_storage import FakeStorage

MEMORY = "MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\n"
MOUNTS = "29 1 254:0 / / rw,relatime - {kind} /dev/vda rw{options}\n"
PASSWORD = "correct-horse-battery"
#: Lines of torch/version.py of the package index's build, whose package has the version 2.13.0 without a suffix.
CUDA_BUILD = "__version__ = '2.13.0'\ndebug = False\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"


@dataclass
class Site:
    """Paths and settings of an installation below a directory of the test's own."""

    path: Path
    patch: pytest.MonkeyPatch
    values: dict[str, Any] = field(default_factory=dict)
    storage: FakeStorage = field(init=False)

    def __post_init__(self) -> None:
        self.data = self.path / "data"
        self.checkpoint = self.path / "checkpoint"
        self.root = self.path / "root"
        Spool(self.data / "spool").prepare()
        self.write("root/proc/meminfo", MEMORY)
        self.mount("ext4")
        self.write("checkpoint/config.json", "{}")
        write_manifest(self.checkpoint, {"demo": False})
        self.write("peers.toml", '[[peer]]\nae_title = "CT_1"\n[[peer]]\nae_title = "PRELIM_CANARY"\n')
        self.certificate(days=365)
        self.values |= {
            "data_dir": self.data,
            "checkpoint": self.checkpoint,
            "device": "cpu",
            "dicom_host": "0.0.0.0",
            "peers_file": self.path / "peers.toml",
            "tls_certificate": self.path / "certificate.pem",
            "tls_key": self.path / "key.pem",
            **{name: free_port() for name in ("dicom_port", "api_port", "flower_port")},
        }

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def mount(self, kind: str, *options: str) -> None:
        """Make the kernel list one file system of this type."""
        after = "".join(f",{option}" for option in options)
        self.write("root/proc/self/mountinfo", MOUNTS.format(kind=kind, options=after))

    def certificate(self, *, days: int, name: str = "certificate.pem", key: str = "key.pem") -> bytes:
        """Write a self-signed certificate that ends in *days*, and its key."""
        write_certificate(self.path / name, self.path / key, days=days)
        return (self.path / name).read_bytes()

    def gpu(self, *rows: str, status: int = 0) -> None:
        """Install a driver that answers with *rows*, and a torch with CUDA."""
        lines = "\n".join(rows)
        program = self.write("bin/nvidia-smi", f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\nexit {status}\n", 0o700)
        self.patch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
        self.patch.setattr("deploy.operate.doctor.gpu._torch_version", lambda: CUDA_BUILD)
        self.values["device"] = "cuda"

    def create_key(self) -> None:
        with transaction(self.values["database_url"]) as session:
            keys.create(session, "reading room")

    def installation(self) -> Installation:
        return Installation(Settings(**self.values), self.root)

    def finding(self, name: str) -> Finding:
        """Return the finding of one check."""
        check = next(check for check in CHECKS if check.name == name)
        return finding_of(check, self.installation())
