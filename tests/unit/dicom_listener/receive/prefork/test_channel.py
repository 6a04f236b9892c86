"""Messages between parent and child."""

from __future__ import annotations

from dicom_listener.receive.prefork.channel import Channel


def test_messages_of_a_process_that_died_with_unread_ones_are_received() -> None:
    parent, child = Channel.pair()
    parent.send("beat")
    child.send("took", id="1")
    child.send("release", id="1")
    child.close()
    received = [parent.receive(), parent.receive()]
    assert [message and message.kind for message in received] == ["took", "release"]
    assert parent.receive() is None
    parent.close()
