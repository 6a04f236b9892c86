"""Settings of every process: one frozen object in sections, read once at the start from flat ``PRELIM_*`` variables.

An unknown ``PRELIM_`` variable is an error that names it: a misspelt setting that is silently ignored would be noticed
only in clinical use. Secrets may also be given as files ``/run/secrets/prelim_<setting>`` (containers), so that no
password is in an environment that other processes can read.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal, Self, get_type_hints

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator

from db.errors import ConfigurationError
from db.settings import server_urls
from db.settings.audit_repository import Audit
from db.settings.object_storage import Storage
from db.settings.reception import Dicom
from db.settings.section import AETitle, Port, Seconds, Section, pairs
from db.settings.web import Api
from db.states import Check

PREFIX = "PRELIM_"
#: Age of a retention rule: a day at least, and digits that dates can hold.
AGE = re.compile(r"[1-9]\d{0,4}d|keep")


class Study(Section):
    """Life of a study."""

    settle_seconds: Seconds = Field(default=30, description="Quiet time until a study is considered complete.")
    settle_rules: dict[str, Seconds] = Field(
        default={},
        description="Quiet time by AE title or modality, as `CT=20,ER_XRAY=5`; an AE title takes precedence.",
    )
    settle_broken_seconds: Seconds = Field(default=120, description="Quiet time of a study whose transfer broke off.")
    settle_cap_seconds: Seconds = Field(
        default=5400, description="A study that still receives images after this time is considered complete."
    )
    priority_rules: dict[str, Literal["LOW", "ROUTINE", "HIGH", "STAT"]] = Field(
        default={}, description="Priority by calling or called AE title, as `ER_XRAY=STAT,RESEARCH=LOW`."
    )
    rules: Path | None = Field(default=None, description="TOML file of [tasks by study](rules.md); unset: reports.")
    max_revisions: int = Field(
        default=20,
        ge=1,
        description="Maximum number of automatic new reports after late images; further ones need `prelim retry`.",
    )

    @field_validator("settle_rules", mode="before")
    @classmethod
    def _parse_rules(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        given = pairs(value)
        try:
            return {name: float(seconds) for name, seconds in given.items()}
        except ValueError as error:
            raise ValueError("invalid rules: expected NAME=SECONDS,NAME=SECONDS") from error

    @field_validator("priority_rules", mode="before")
    @classmethod
    def _parse_priorities(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return {name: level.upper() for name, level in pairs(value).items()}


class Queue(Section):
    """Queue and jobs."""

    dispatch_seconds: Seconds = Field(
        default=0.25, description="Pause of the dispatcher between two passes over the spool and the database."
    )
    redeliver_seconds: Seconds = Field(
        default=30, description="The wake-up message of a job that is still queued is sent again after this time."
    )
    lease_seconds: Seconds = Field(
        default=30, description="A running job without progress for this time is queued again for another worker."
    )
    max_attempts: int = Field(default=3, ge=1, description="Maximum number of attempts at a job before it fails.")
    retry_seconds: Seconds = Field(
        default=5, description="Pause before the second attempt; doubled, with jitter, for each further attempt."
    )
    worker_slots: int = Field(
        default=4,
        ge=1,
        description="Number of simultaneous reports of a worker process; unset, fewer where processors or memory are "
        "[limited](deploy.md#in-containers).",
    )


class Model(Section):
    """Model and generation."""

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
        default="none", description="Quantize the language model's weights; needs bitsandbytes and a GPU."
    )
    context_tokens: int = Field(
        default=4096,
        ge=256,
        description="Maximum tokens of a request: images, quoted cases and report; each slot reserves memory for them.",
    )
    gpu_memory_gib: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Memory to use on each GPU, in GiB; unset: all free memory.",
    )
    cuda_graphs: bool = Field(
        default=False, description="Decode with CUDA graphs, which saves kernel launches; not yet tested on a GPU."
    )
    images_per_study: int = Field(default=8, ge=1, description="Maximum number of images given to the model.")
    max_new_tokens: int = Field(default=200, ge=1, description="Maximum length of a report, in tokens.")
    report_deadline_seconds: Seconds = Field(default=300, description="Maximum time to generate a report.")
    blocking_checks: tuple[Check, ...] = Field(
        default=(), description="Checks, as `A,B`, that withhold a failing draft, unless a finding of it is critical."
    )
    demo_ae_titles: tuple[AETitle, ...] = Field(
        default=("PRELIM_DEMO",),
        description="Called AE titles, as `A,B`, for phantoms: a demo checkpoint reports only studies sent to them.",
    )

    @field_validator("demo_ae_titles", "blocking_checks", mode="before")
    @classmethod
    def _parse_list(cls, value: object) -> object:
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


class Retrieval(Section):
    """Retrieval of earlier cases."""

    retrieved_cases: int = Field(default=3, ge=0, description="Number of similar earlier cases given to the model.")
    ood_reject: bool = Field(default=True, description="Write no findings for images that are out of distribution.")
    validation_cases: int = Field(default=16, ge=0, description="Cases of each kind that a build tests the model with.")
    min_validated_f1: float = Field(default=0.5, ge=0, le=1, description="Strict F1 from which a kind is validated.")
    not_validated: Literal["mark", "withhold"] = Field("mark", description="`mark` or `withhold` drafts not validated.")


class Operations(Section):
    """Operations."""

    data_dir: Path = Field(
        default=Path("prelim-data"), description="Directory of the spool, the embedded servers and the secrets."
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="URL of PostgreSQL, `postgresql+psycopg://user:password@host[,host]/name`; unset: embedded server.",
    )
    broker_url: SecretStr | None = Field(
        default=None,
        description="URL of Redis, `redis://:password@host:port/0` or `sentinel://...`; unset: the embedded server.",
    )
    report_images: Literal["database", "files"] = Field(
        default="database", description="Where new reports store their images; `files`: `<data_dir>/report_images/`."
    )
    retention_rules: dict[str, int | Literal["keep"]] = Field(
        default={},
        description="Age at which `prelim retain` deletes studies, by AE title or modality, as `CT=365d,ER=keep`;"
        " an AE title takes precedence.",
    )
    statement_seconds: Seconds = Field(
        default=8,
        description="Limit of a database statement, and of the delay by a frozen process; reading commands: 300 s.",
    )
    flower_host: str = Field(default="127.0.0.1", description="Address that Flower binds to.")
    flower_port: Port = Field(default=5555, description="TCP port of Flower.")
    flower_password: SecretStr | None = Field(
        default=None, description="Password of Flower's user `prelim`; unset: generated in the data directory."
    )
    stop_seconds: Seconds = Field(
        default=45, description="A worker that is stopping returns unfinished reports to the queue after this time."
    )
    engine_stall_seconds: Seconds = Field(
        default=120, description="A worker whose model makes no progress for this time logs an error and exits."
    )
    alarm_seconds: Seconds = Field(
        default=300, description="An alarm is raised if reports wait for this time and none is started or finished."
    )
    canary_seconds: int = Field(
        default=600, ge=0, description="Time between two [canaries](operate.md#canary); 0: none."
    )
    canary_host: str | None = Field(default=None, description="Host of the listener for canaries; unset: this machine.")
    traces_url: str | None = Field(
        default=None,
        pattern=r"^https?://(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+)(:\d{1,5})?(/[^\s?#]*)?$",
        description="OpenTelemetry collector, `http://host:4318` (OTLP over HTTP), to which"
        " [traces](operate.md#traces) are sent; unset: none are.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest severity that is logged."
    )
    log_format: Literal["console", "json"] = Field(default="console", description="Log format: `console` or `json`.")

    @field_validator("retention_rules", mode="before")
    @classmethod
    def _parse_ages(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        rules = {name: age.lower() for name, age in pairs(value).items()}
        if any(not name or not AGE.fullmatch(age) for name, age in rules.items()):
            raise ValueError("invalid rules: expected NAME=DAYSd or NAME=keep, separated by commas")
        return {name: age if age == "keep" else int(age.removesuffix("d")) for name, age in rules.items()}

    @field_validator("database_url", "broker_url")
    @classmethod
    def _check_servers(cls, value: SecretStr | None, field: ValidationInfo) -> SecretStr | None:
        return value and SecretStr(server_urls.checked(str(field.field_name), value.get_secret_value()))


class Settings(BaseModel, frozen=True, extra="forbid"):
    """Choices of a site; the defaults run everything on one machine."""

    operations: Operations
    dicom: Dicom
    study: Study
    queue: Queue
    model: Model
    retrieval: Retrieval
    storage: Storage
    api: Api
    audit: Audit

    def __init__(self, **values: Any) -> None:
        """Take flat names, as `Settings(settle_seconds=0)`; raises ValidationError if a name or a value is invalid."""
        sections: dict[str, Any] = {section: {} for section in type(self).model_fields}
        for name, value in values.items():
            place = sections[SECTION_OF[name]] if name in SECTION_OF else sections
            place[name] = value
        super().__init__(**sections)

    def by_name(self) -> dict[str, Any]:
        """Return every value by its flat name."""
        return {name: getattr(getattr(self, section), name) for name, section in SECTION_OF.items()}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, given by flat names; raises ValidationError as the constructor does."""
        return type(self)(**{**self.by_name(), **changes})

    @property
    def spool(self) -> Path:
        """Directory of received files."""
        return self.operations.data_dir / "spool"

    @property
    def checkpoint_directory(self) -> Path:
        """Directory of the model."""
        return self.model.checkpoint or self.operations.data_dir / "checkpoint"

    @property
    def embedded_services(self) -> Path:
        """File in which a running `prelim up` writes the URLs of its servers, readable by its user only."""
        return self.operations.data_dir / "run" / "services.json"

    def database(self) -> str:
        """URL of PostgreSQL; raises ConfigurationError if it is not set and no embedded server runs."""
        return self._service("database_url", self.operations.database_url)

    def broker(self) -> str:
        """URL of Redis; raises ConfigurationError if it is not set and no embedded server runs."""
        return self._service("broker_url", self.operations.broker_url)

    def _service(self, name: str, given: SecretStr | None) -> str:
        if given is not None:
            return given.get_secret_value()
        try:
            return str(json.loads(self.embedded_services.read_text())[name])
        except PermissionError as error:
            raise ConfigurationError(
                f"no {name}: {error.filename}: {error.strerror}: run it as the user of `prelim up`,"
                f" or set {PREFIX}{name.upper()}"
            ) from error
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise ConfigurationError(
                f"no {name}: start `prelim up` with this data directory ({self.operations.data_dir}),"
                f" or set {PREFIX}{name.upper()}"
            ) from error


SECTIONS: dict[str, type[Section]] = get_type_hints(Settings)
#: Section of each flat name.
SECTION_OF = {name: section for section, fields in SECTIONS.items() for name in fields.model_fields}
if len(SECTION_OF) != sum(len(fields.model_fields) for fields in SECTIONS.values()):
    raise TypeError("duplicate setting: names must be unique across sections")
