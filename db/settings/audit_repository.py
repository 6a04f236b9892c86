"""Settings of the sending of the audit log."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from db.settings.section import Section


class Audit(Section):
    """Audit record repository."""

    audit_syslog_url: str | None = Field(
        default=None,
        pattern=r"^syslog\+tls://(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+)(:\d{1,5})?/?$",
        description="Audit record repository, `syslog+tls://host:6514`, to which the"
        " [audit log](operate.md#audit-record-repository) is sent; unset: it is not sent.",
    )
    audit_syslog_ca: Path | None = Field(
        default=None, description="PEM file of the authority of the repository's certificate; unset: the system's."
    )
    audit_syslog_certificate: Path | None = Field(
        default=None, description="PEM file of the certificate that is shown to the repository; unset: none."
    )
    audit_syslog_key: Path | None = Field(
        default=None, description="PEM file of its private key; unset: in the certificate's file."
    )
    audit_syslog_confirmation: Literal["close_notify", "tcp"] = Field(
        default="close_notify",
        description="End of a connection by which the repository confirms what it read; `tcp`: also without the TLS"
        " alert, as [rsyslog with GnuTLS](operate.md#audit-record-repository).",
    )
