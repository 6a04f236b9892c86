"""DICOM over TLS (PS3.15 B.12 and B.13: BCP 195, RFC 9325)."""

from __future__ import annotations

import hashlib
import ssl
from typing import TYPE_CHECKING, Any

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from db.settings import Settings

#: Of TLS 1.2: authenticated encryption with forward secrecy only (RFC 9325 4.2). All suites of TLS 1.3 have both.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: Reads of files that are replaced meanwhile: certificate and key are two files.
MAX_READS = 3


class ServerContext(ssl.SSLContext):
    """TLS context of the listener, with the description of the files that it was loaded from."""

    loaded: dict[str, Any]


def client_context(
    settings: Settings, trusted: Path | None = None, *, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Return the TLS context of a requestor, with *certificate* and its *key*, or with PRELIM_TLS_CERTIFICATE if set.

    The peer's certificate must be signed by *trusted*, PRELIM_TLS_CLIENT_CA or PRELIM_TLS_CERTIFICATE; if none of them
    is given, by an authority of the system, and for its host name. Raises ConfigurationError.
    """
    authorities = [
        path for path in (trusted, settings.dicom.tls_client_ca, settings.dicom.tls_certificate) if path is not None
    ]
    context = ssl.create_default_context() if not authorities else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Modalities are addressed by IP; a certificate signed by the site's own authority suffices (PS3.15 B.12).
    context.check_hostname = not authorities
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    own = (certificate, key) if certificate else (settings.dicom.tls_certificate, settings.dicom.tls_key)
    _load(context, *own, authorities)
    return context


def server_context(settings: Settings) -> ServerContext | None:
    """Return the TLS context of the listener; None if no certificate is configured.

    With a client CA, the handshake fails for peers without a certificate it signed. Raises ConfigurationError.
    """
    if settings.dicom.tls_certificate is None:
        if settings.dicom.tls_key or settings.dicom.tls_client_ca:
            raise ConfigurationError("PRELIM_TLS_KEY and PRELIM_TLS_CLIENT_CA need PRELIM_TLS_CERTIFICATE")
        return None
    for _ in range(MAX_READS):
        context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
        authorities = [settings.dicom.tls_client_ca] if settings.dicom.tls_client_ca else []
        context.verify_mode = ssl.CERT_REQUIRED if authorities else ssl.CERT_NONE
        # OpenSSL does not return what it has loaded: the files must be the same before and after.
        context.loaded = description(settings)
        _load(context, settings.dicom.tls_certificate, settings.dicom.tls_key, authorities)
        if context.loaded == description(settings):
            return context
    raise ConfigurationError("the TLS certificate or CA changes while it is read: try again when it is complete")


def description(settings: Settings) -> dict[str, Any]:
    """Describe the files of certificate and client CA, for `db.operations.listener_status.ServedCertificate`.

    `ends` is the time at which the first of the own certificates to end does so, None if it cannot be read, and the
    others are the SHA-256 of the certificates of each file. Raises ConfigurationError.
    """
    ends, fingerprint = _certificates(settings.dicom.tls_certificate)
    return {"ends": ends, "fingerprint": fingerprint, "authorities": _certificates(settings.dicom.tls_client_ca)[1]}


def _certificates(path: Path | None) -> tuple[float | None, str]:
    """Return the first end and the SHA-256 of the certificates of a PEM file; raises ConfigurationError."""
    from cryptography import x509  # noqa: PLC0415 - a listener without TLS needs it not
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - the same

    if path is None:
        return None, ""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the TLS certificate, key or CA cannot be loaded: {error}") from error
    try:
        found = x509.load_pem_x509_certificates(text)
    except ValueError:  # a form that only OpenSSL reads
        return None, hashlib.sha256(text).hexdigest()
    ends = min(certificate.not_valid_after_utc.timestamp() for certificate in found)
    return ends, hashlib.sha256(b"".join(each.public_bytes(Encoding.DER) for each in found)).hexdigest()


def require_readable(*paths: Path | None) -> None:
    """Raise OSError, with its name, for the first file that cannot be read: errors of OpenSSL have no name."""
    for path in paths:
        if path is not None:
            path.open("rb").close()


def no_password() -> str:
    """Refuse an encrypted key: OpenSSL would ask for its password at the terminal, and wait."""
    raise ConfigurationError("the TLS key is encrypted: store it without a password, readable by Prelim's user only")


def _load(context: ssl.SSLContext, certificate: Path | None, key: Path | None, authorities: Sequence[Path]) -> None:
    """Load the own certificate, if there is one, and the *authorities* of peers; raises ConfigurationError."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    try:
        require_readable(*authorities, certificate, key)
        for path in authorities:
            context.load_verify_locations(path)
        if certificate is not None:
            context.load_cert_chain(certificate, key, no_password)
    except OSError as error:
        raise ConfigurationError(f"the TLS certificate, key or CA cannot be loaded: {error}") from error
