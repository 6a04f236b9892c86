"""A release is verified by the commands of docs/upgrade.md; one changed byte is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tools import tool

REPOSITORY = Path(__file__).parents[3]
VERIFY = re.findall(r"```sh\n(ssh-keygen -Y verify.*?)```", (REPOSITORY / "docs" / "upgrade.md").read_text(), re.DOTALL)


def run(*command: object, at: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(each) for each in command], cwd=at, capture_output=True, text=True, check=False)


def verified(folder: Path) -> subprocess.CompletedProcess[str]:
    (commands,) = VERIFY
    return run("sh", "-ec", commands, at=folder)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    run(tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key", at=tmp_path)
    return tmp_path / "key"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A repository with one commit."""
    made = tmp_path / "sources"
    (made / ".ci").mkdir(parents=True)
    shutil.copy(REPOSITORY / ".ci" / "release", made / ".ci")
    (made / "pyproject.toml").write_text('version = "1.2.3"\n')
    (made / "sbom").write_text("{}\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "--quiet"), ("add", "."), (*identity, "commit", "--quiet", "--message", "a")):
        assert run("git", *command, at=made).returncode == 0
    return made


def release(sources: Path, key: Path, folder: Path) -> Path:
    """Make a release with the line of its signer."""
    made = run(".ci/release", key, folder, "sbom", at=sources)
    assert made.returncode == 0, made.stderr
    public = key.with_suffix(".pub").read_text()
    (folder / "allowed_signers").write_text(f'release namespaces="prelim-release" {public}')
    return folder


def test_two_runs_on_one_commit_write_the_same_bytes(sources: Path, key: Path, tmp_path: Path) -> None:
    first, second = (release(sources, key, tmp_path / name) for name in ("first", "second"))

    names = ["SHA256SUMS", "SHA256SUMS.sig", "prelim-1.2.3.cdx.json", "prelim-1.2.3.tar.gz"]
    assert sorted(path.name for path in first.iterdir() if path.name != "allowed_signers") == names
    assert [(first / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]
    assert verified(first).returncode == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prelim-1.2.3.tar.gz", "prelim-1.2.3.tar.gz: FAILED"),
        ("prelim-1.2.3.cdx.json", "prelim-1.2.3.cdx.json: FAILED"),
        ("SHA256SUMS", "Could not verify signature"),
        ("SHA256SUMS.sig", "Could not verify signature|Couldn't|invalid format"),
    ],
)
def test_changed_byte_is_refused(sources: Path, key: Path, tmp_path: Path, name: str, message: str) -> None:
    folder = release(sources, key, tmp_path / "release")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)

    refused = verified(folder)

    assert refused.returncode != 0
    assert re.search(message, refused.stdout + refused.stderr), refused.stdout + refused.stderr


def test_signature_of_another_key_is_refused(sources: Path, key: Path, tmp_path: Path) -> None:
    folder = release(sources, key, tmp_path / "release")
    other = tmp_path / "other"
    run(tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", other, at=tmp_path)
    (folder / "allowed_signers").write_text(f"release {other.with_suffix('.pub').read_text()}")

    assert "Could not verify signature" in verified(folder).stdout


def test_release_needs_a_key_and_a_commit(sources: Path, key: Path, tmp_path: Path) -> None:
    missing = run(".ci/release", tmp_path / "none", tmp_path / "release", at=sources)
    (sources / "sbom").write_text("changed")
    changed = run(".ci/release", key, tmp_path / "release", at=sources)

    assert (missing.returncode, changed.returncode) == (2, 2)
    assert "no signing key at" in missing.stderr
    assert "commit them first" in changed.stderr
    assert not (tmp_path / "release").exists()
