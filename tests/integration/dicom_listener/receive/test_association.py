"""Log lines of an association."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from tests.fuzz.wire import Client, ct_slice
from tests.polling import wait_until

if TYPE_CHECKING:
    from dicom_listener.receive.listener import Listener

FIELDS = ("association_id", "address", "calling_ae_title", "called_ae_title")


def lines_of(listener: Listener, calling: bytes) -> list[dict[str, Any]]:
    """The log lines of an association with a refused object."""
    with capture_logs(processors=[merge_contextvars]) as lines:
        with Client(listener.port) as client:
            client.associate(calling=calling)
            assert client.store("1.2.3", ct_slice("1.2.4")) == 0xA900
            client.release()
        wait_until(lambda: lines[-1:] != [] and lines[-1]["event"] == "association.released")
    return [dict(line) for line in lines]


def test_every_log_line_has_the_ids_of_its_association_only(listener: Listener) -> None:
    first, second = lines_of(listener, b"CT_1"), lines_of(listener, b"CT_2")
    assert [line["event"] for line in first] == ["request.refused", "association.released"]
    for lines, calling in ((first, "CT_1"), (second, "CT_2")):
        assert {tuple(line[field] for field in FIELDS[1:]) for line in lines} == {("127.0.0.1", calling, "PRELIM")}
    ids = [{line["association_id"] for line in lines} for lines in (first, second)]
    assert [len(each) for each in ids] == [1, 1]
    assert ids[0].isdisjoint(ids[1])
