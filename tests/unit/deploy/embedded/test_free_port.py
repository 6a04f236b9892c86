"""Ports of servers that are chosen before they are bound."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from deploy.embedded import server_process
from deploy.embedded.server_process import free_port

if TYPE_CHECKING:
    import pytest


def test_port_that_the_kernel_offers_again_is_not_returned_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = iter([50001, 50001, 50001, 50002])

    class Offering(socket.socket):
        def bind(self, _address: Any) -> None:
            pass

        def getsockname(self) -> tuple[str, int]:
            return "127.0.0.1", next(offered)

    monkeypatch.setattr(server_process.socket, "socket", Offering)

    assert [free_port(), free_port()] == [50001, 50002]
