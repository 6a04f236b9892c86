"""GPUs that have stopped computing: each is stored until a worker begins with it, or an operator removes it.

Not read from the rows of processes: a worker that starts again in its container has the same name, and may have taken
another GPU, or the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from db.models import LostGpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session


def record(session: Session, worker: str, info: Mapping[str, Any], *, begins: bool) -> None:
    """Record the `gpus` of a worker as lost if *info*, its heartbeat, has `gpu_lost`, as found if it *begins*.

    A worker that has loaded its model has computed on each of its GPUs. One that continues beside the worker that has
    lost the same GPU proves nothing.
    """
    gpus = info.get("gpus", ())
    if info.get("gpu_lost"):
        # Without a known GPU, the worker itself: such a loss ends by `remove` only.
        lost = insert(LostGpu).values([{"gpu": gpu, "process": worker} for gpu in gpus or (worker,)])
        values = {"process": lost.excluded.process, "lost_at": func.clock_timestamp()}
        session.execute(lost.on_conflict_do_update(index_elements=["gpu"], set_=values))
    elif begins and gpus:
        session.execute(delete(LostGpu).where(LostGpu.gpu.in_(gpus)))


def lost(session: Session) -> Sequence[LostGpu]:
    """Return the lost GPUs, the latest first."""
    return session.scalars(select(LostGpu).order_by(LostGpu.lost_at.desc(), LostGpu.gpu)).all()


def remove(session: Session, gpu: str) -> bool:
    """Remove a lost GPU that no worker will hold again; return whether it was lost."""
    return session.scalar(delete(LostGpu).where(LostGpu.gpu == gpu).returning(LostGpu.gpu)) is not None
