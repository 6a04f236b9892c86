"""Every setting of every process: one frozen object, read once at the start from ``PRELIM_*``.

A misspelt ``PRELIM_`` variable refuses to start and is named, because a setting that silently does nothing is found
out by the hospital. Secrets may also come as files ``/run/secrets/prelim_<setting>`` (containers), so that no
password stands in an environment that other processes can read.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from db.errors import ConfigurationError

PREFIX = "PRELIM_"
SECRETS_DIRECTORY = Path("/run/secrets")
#: Read by the test suite, not by the processes.
TEST_VARIABLES = frozenset({"PRELIM_TEST_DATA", "PRELIM_REQUIRE_TEST_DATA"})

AETitle = Annotated[
    str,
    Field(min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]*[!-\x5b\x5d-~][\x20-\x5b\x5d-\x7e]*$"),
]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """What a site may choose; the defaults run everything on one machine."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    data_dir: Path = Field(
        default=Path("prelim-data"), description="Folder of the spool, the embedded servers and the secrets."
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL, as `postgresql+psycopg://user:password@host/name`; unset: the embedded server.",
    )
    broker_url: SecretStr | None = Field(
        default=None, description="Redis, as `redis://:password@host:port/0`; unset: the embedded server."
    )

    dicom_host: str = Field(default="127.0.0.1", description="Address the DICOM listener binds.")
    dicom_port: Port = Field(default=11112, description="TCP port of the DICOM listener.")
    ae_title: AETitle = Field(default="PRELIM", description="Our AE title; associations called otherwise still work.")
    maximum_associations: int = Field(default=100, ge=1, description="Associations served at once; more are refused.")
    maximum_pdu_bytes: int = Field(
        default=131072, ge=4096, le=1048576, description="Largest PDU we offer to receive, in bytes."
    )
    peers_file: Path | None = Field(
        default=None, description="TOML file of the AE titles and addresses that may associate; unset: everybody may."
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM certificate of the listener; set: it speaks DICOM over TLS only."
    )
    tls_key: Path | None = Field(default=None, description="PEM private key, where the certificate does not hold it.")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM certificates of who signs peers' certificates; set: peers must show one."
    )
    mpps: bool = Field(
        default=False, description="Accept Modality Performed Procedure Step; COMPLETED settles a study at once."
    )

    settle_seconds: Seconds = Field(
        default=30, description="Quiet time after its last image until a study is judged complete."
    )
    settle_rules: Annotated[dict[str, Seconds], NoDecode] = Field(
        default={}, description="Quiet time per AE title or modality, as `CT=20,ER_XRAY=5`; an AE title wins."
    )
    priority_rules: Annotated[dict[str, Literal["LOW", "ROUTINE", "HIGH", "STAT"]], NoDecode] = Field(
        default={},
        description="Priority of what an AE title sends, or is sent to one of ours, as `ER_XRAY=STAT,RESEARCH=LOW`.",
    )
    settle_cap_seconds: Seconds = Field(
        default=5400, description="A study still growing after this long is judged complete all the same."
    )
    maximum_revisions: int = Field(
        default=20,
        ge=1,
        description="Images that come late are reported this often by themselves; then an operator is asked.",
    )
    dispatch_seconds: Seconds = Field(
        default=0.25, description="Pause of the dispatcher between two looks at the spool and the database."
    )
    nudge_seconds: Seconds = Field(
        default=30,
        description="A queued job whose Celery message was not acted on is sent again after this long.",
    )

    lease_seconds: Seconds = Field(
        default=30, description="A running job without progress for this long is given to another worker."
    )
    maximum_attempts: int = Field(
        default=3, ge=1, description="Claims of one job before it ends as failed with its reason."
    )
    retry_seconds: Seconds = Field(
        default=5, description="Pause before the second attempt; doubled, with jitter, for each further one."
    )

    stop_seconds: Seconds = Field(
        default=45, description="A worker told to stop gives back the reports it has not finished by then."
    )
    engine_stall_seconds: Seconds = Field(
        default=120, description="A worker whose model makes no progress for this long says so and exits."
    )
    alarm_seconds: Seconds = Field(
        default=300, description="Reports that wait this long while none is claimed or written raise an alarm."
    )

    checkpoint: Path | None = Field(
        default=None,
        description="Directory of the model in the stock transformers layout; unset: `<data_dir>/checkpoint`.",
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="`auto`, `cpu`, `cuda` or `cuda:N`."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Number format of the weights in memory; `auto`: as stored."
    )
    quantization: Literal["none", "int8", "int4"] = Field(
        default="none", description="Round the language model's weights to so many bits; needs bitsandbytes and a GPU."
    )
    context_tokens: int = Field(
        default=4096,
        ge=256,
        description="Longest request, images, quoted cases and report together; a slot takes memory for all of it.",
    )
    gpu_memory_gib: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Plan with no more of each GPU's memory; unset: all free."
    )
    demo_ae_titles: Annotated[tuple[AETitle, ...], NoDecode] = Field(
        default=("PRELIM_DEMO",),
        description="A demo checkpoint reports only what was sent to these AE titles of ours, as `A,B`; no patients.",
    )
    worker_slots: int = Field(default=4, ge=1, description="Reports one worker process writes at once.")
    maximum_new_tokens: int = Field(default=200, ge=1, description="Longest report, in tokens.")
    report_deadline_seconds: Seconds = Field(default=300, description="Longest time one report may be generated.")
    images_per_study: int = Field(default=8, ge=1, description="Most images of one study shown to the model.")
    retrieved_cases: int = Field(default=3, ge=0, description="Similar earlier cases given to the model.")
    refuse_strange: bool = Field(
        default=True,
        description="Images unlike all reference images of modality and body part get no findings, and say so.",
    )

    api_host: str = Field(default="127.0.0.1", description="Address the API and the page bind.")
    api_port: Port = Field(default=8080, description="TCP port of the API and the page.")
    flower_host: str = Field(default="127.0.0.1", description="Address Flower binds.")
    flower_port: Port = Field(default=5555, description="TCP port of Flower.")
    flower_password: SecretStr | None = Field(
        default=None, description="Password of Flower's user `prelim`; unset: one is made in the data folder."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important records that are written."
    )
    log_format: Literal["console", "json"] = Field(default="console", description="`console` or `json` lines.")

    @field_validator("database_url", "broker_url")
    @classmethod
    def _refuse_other_servers(cls, value: SecretStr | None, field: ValidationInfo) -> SecretStr | None:
        wanted = {"database_url": ("postgresql+psycopg://",), "broker_url": ("redis://", "rediss://")}[
            str(field.field_name)
        ]
        if value is not None and not value.get_secret_value().startswith(wanted):
            raise ValueError(f"must begin with {' or '.join(wanted)}")
        return value

    @field_validator("settle_rules", mode="before")
    @classmethod
    def _parse_rules(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = (pair.split("=", 1) for pair in value.split(",") if pair.strip())
        try:
            return {name.strip(): float(seconds) for name, seconds in pairs}
        except ValueError as error:
            raise ValueError("write it as NAME=SECONDS,NAME=SECONDS") from error

    @field_validator("priority_rules", mode="before")
    @classmethod
    def _parse_priorities(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = (pair.partition("=") for pair in value.split(",") if pair.strip())
        return {name.strip(): level.strip().upper() for name, _, level in pairs}

    @field_validator("demo_ae_titles", mode="before")
    @classmethod
    def _parse_titles(cls, value: object) -> object:
        return [title.strip() for title in value.split(",") if title.strip()] if isinstance(value, str) else value

    @property
    def spool(self) -> Path:
        """Where received files lie."""
        return self.data_dir / "spool"

    @property
    def checkpoint_directory(self) -> Path:
        """Where the model lies."""
        return self.checkpoint or self.data_dir / "checkpoint"

    @property
    def embedded_services(self) -> Path:
        """The file in which a running `prelim up` names its own servers, readable by its user only."""
        return self.data_dir / "run" / "services.json"

    def database(self) -> str:
        """The URL of PostgreSQL; raises ConfigurationError where there is none."""
        return self._service("database_url", self.database_url)

    def broker(self) -> str:
        """The URL of Redis; raises ConfigurationError where there is none."""
        return self._service("broker_url", self.broker_url)

    def _service(self, name: str, given: SecretStr | None) -> str:
        if given is not None:
            return given.get_secret_value()
        try:
            return str(json.loads(self.embedded_services.read_text())[name])
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise ConfigurationError(
                f"no {name}: start `prelim up` with this data folder ({self.data_dir}), or set {PREFIX}{name.upper()}"
            ) from error


def load_settings() -> Settings:
    """Settings from the environment; raises ConfigurationError that names every wrong variable."""
    _refuse_unknown_variables()
    secrets = SECRETS_DIRECTORY if SECRETS_DIRECTORY.is_dir() else None
    try:
        return Settings(_secrets_dir=secrets)
    except ValidationError as error:
        # The values are left out: one of them may be a password.
        wrong = (f"{PREFIX}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise ConfigurationError("; ".join(wrong)) from None


def _refuse_unknown_variables() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | TEST_VARIABLES
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name not in known)
    if unknown:
        raise ConfigurationError("; ".join(f"{name} is not a setting{_guess(name, known)}" for name in unknown))


def _guess(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
