"""Settings of the object storage behind the inbox."""

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from db.settings.section import Section

#: Names that are valid everywhere (Amazon S3, "Bucket naming rules"), and a prefix of plain names.
URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(?:/[A-Za-z0-9._-]+)*)/?")


class Storage(Section):
    """Object storage."""

    storage_url: str | None = Field(
        default=None,
        description="Bucket that received objects are [moved to](storage.md), `s3://bucket/prefix`; unset: they stay.",
    )
    storage_endpoint: str | None = Field(
        default=None, description="Address of the S3 service, `https://host:port`; unset: Amazon S3 of the region."
    )
    storage_region: str = Field(
        default="us-east-1", pattern=r"^[a-z0-9-]+$", description="Region for which requests to S3 are signed."
    )
    storage_access_key: SecretStr | None = Field(
        default=None, validate_default=True, description="Access key of an account of the S3 service."
    )
    storage_secret_key: SecretStr | None = Field(
        default=None, validate_default=True, description="Secret key of that account."
    )
    storage_ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) that sign the service's certificate; unset: those of the system."
    )
    storage_keep_local_hours: float = Field(
        default=24, ge=0, le=24 * 366, description="Time for which an object that was moved also stays on local disk."
    )
    storage_cache_gib: float = Field(
        default=5,
        gt=0,
        allow_inf_nan=False,
        description="Space for objects read from the bucket, on each host, in GiB.",
    )
    storage_commit_after: Literal["inbox", "store"] = Field(
        default="inbox",
        description="When storage commitment is confirmed: object in the bucket (`store`), or on local disk (`inbox`).",
    )
    storage_backup: Literal["copy", "list"] = Field(
        default="copy",
        description="`copy`: backups contain the objects of the bucket; `list`: their digests.",
    )

    @field_validator("storage_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None and not URL.fullmatch(value):
            raise ValueError("expected s3://bucket/prefix; keys are other settings")
        return value

    @field_validator("storage_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _is_address(value):
            raise ValueError("expected https://host or https://host:port, without user or path")
        return value

    @field_validator("storage_access_key", "storage_secret_key")
    @classmethod
    def _check_keys(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None and info.data.get("storage_url") is not None:
            raise ValueError("PRELIM_STORAGE_URL needs it, in the environment or in a file of /run/secrets")
        return value

    @property
    def bucket(self) -> str:
        """Name of the bucket; empty without one."""
        found = URL.fullmatch(self.storage_url or "")
        return found["bucket"] if found else ""

    @property
    def prefix(self) -> str:
        """Begin of every key, with a slash at its end; empty without one."""
        found = URL.fullmatch(self.storage_url or "")
        return f"{found['prefix'][1:]}/" if found and found["prefix"] else ""


def _is_address(value: str) -> bool:
    parts = urlsplit(value)
    try:
        given = parts.port != 0 and parts.hostname and parts.username is None
    except ValueError:
        return False
    return bool(given) and parts.scheme in ("http", "https") and not (parts.path.strip("/") or parts.query)
