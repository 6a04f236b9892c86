"""Keys of the API."""

import datetime as dt
import uuid

from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time


class ApiKey(Base):
    """A bearer key of the API; only its SHA-256 is stored."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column(unique=True)
    key_sha256: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[dt.datetime] = database_time()
    #: Null if the key is valid until it is revoked.
    expires_at: Mapped[dt.datetime | None]
    revoked_at: Mapped[dt.datetime | None]
