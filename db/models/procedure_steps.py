"""Modality Performed Procedure Steps (PS3.4 F.7)."""

import datetime as dt

from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time, one_of

#: States of a procedure step (PS3.3 C.4.14); the last two are final.
IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"


class ProcedureStep(Base):
    """A Modality Performed Procedure Step (PS3.4 F.7), reduced to the completion of its study."""

    __tablename__ = "procedure_steps"

    sop_instance_uid: Mapped[str] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(index=True)
    state: Mapped[str]
    #: SOP Instance UIDs of the images it produced, if it lists them.
    images: Mapped[list[str]]
    updated_at: Mapped[dt.datetime] = database_time()

    __table_args__ = (one_of("state", (IN_PROGRESS, COMPLETED, DISCONTINUED)),)
