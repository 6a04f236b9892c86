"""Settings of the DICOM listener."""

from pathlib import Path

from pydantic import Field

from db.settings.section import AETitle, Port, Section


class Dicom(Section):
    """DICOM listener."""

    dicom_host: str = Field(default="127.0.0.1", description="Address that the DICOM listener binds to.")
    dicom_port: Port = Field(default=11112, description="TCP port of the DICOM listener.")
    ae_title: AETitle = Field(
        default="PRELIM", description="AE title of Prelim; other called AE titles are also accepted."
    )
    max_associations: int = Field(default=100, ge=1, description="Maximum of open associations; others are rejected.")
    max_associations_per_address: int = Field(default=75, ge=1, description="Maximum of them for one address.")
    max_associations_per_ae_title: int = Field(default=50, ge=1, description="Maximum for an AE title at an address.")
    max_pdu_bytes: int = Field(
        default=131072, ge=4096, le=1048576, description="Maximum PDU length that the listener offers, in bytes."
    )
    peers_file: Path | None = Field(
        default=None, description="TOML file with the AE titles and addresses that may associate; unset: all may."
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM certificate of the listener; if set, only DICOM over TLS is accepted."
    )
    tls_key: Path | None = Field(None, description="PEM private key, if the certificate file does not contain it.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM certificates of the CAs that sign peers' certificates; if set, peers must present one.",
    )
    listener_processes: int | None = Field(None, ge=1, le=128, description="Processes; unset: one a core, 4 at most.")
    warn_disk_percent: float = Field(80, gt=0, le=100, description="Alarm if so much of the spool's disk is used.")
    urgent_only_disk_percent: float = Field(
        default=90, gt=0, le=100, description="Routine objects are refused for a time if so much of it is used."
    )
    urgent_only_backlog: int = Field(
        1_000_000, ge=1, description="The same from this number of received files that are not indexed."
    )
    max_objects_per_minute: int | None = Field(
        default=None, ge=1, description="Maximum of objects in a minute of an AE title at an address; unset: no limit."
    )
    max_megabytes_per_minute: int | None = Field(None, ge=1, description="The same in MB.")
    mpps: bool = Field(
        default=False, description="Accept Modality Performed Procedure Step; COMPLETED settles a study immediately."
    )
