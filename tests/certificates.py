"""Self-signed certificates for tests."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path


def write_certificate(
    path: Path,
    key_path: Path,
    *,
    days: int,
    begins: int = -400,
    address: str | None = None,
    usage: x509.ObjectIdentifier | None = None,
) -> None:
    """Write a certificate from *begins* to *days* days from now, and its key.

    It is for an IP *address* and has an extended key *usage* if they are given.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "prelim.test")])
    now = dt.datetime.now(dt.UTC)
    unsigned = x509.CertificateBuilder(subject, subject, private.public_key(), x509.random_serial_number())
    dated = unsigned.not_valid_before(now + dt.timedelta(days=begins)).not_valid_after(now + dt.timedelta(days=days))
    if address is not None:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        dated = dated.add_extension(names, critical=False)
    if usage is not None:
        dated = dated.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    path.write_bytes(dated.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_path.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    key_path.chmod(0o600)
