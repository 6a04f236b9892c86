"""Behaviours of pynetdicom that no page of it promises, and on which the listener rests: one test for each.

A new version of pynetdicom must pass them. The last test keeps the tree to its public names.
"""

from __future__ import annotations

import ast
import re
import socket
import threading
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import AddressInformation, AssociationSocket

from tests.fuzz import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[5]
ROOTS = ("api", "db", "deploy", "dicom_listener", "worker", "tests")


class Patient(AssociationSocket):
    """Socket with a PDU, or an action, for each call of `ready` without waiting events; it records the calls."""

    def __init__(self, association: Association, pdus: list[Any], connection: socket.socket) -> None:
        super().__init__(association, client_socket=connection)
        self.calls: list[tuple[Any, ...]] = []
        self.sent: list[bytes] = []
        self.pdus = list(pdus)
        self.rest = b""

    @property
    def ready(self) -> bool:
        state = self.assoc.dul.state_machine.current_state
        self.calls.append(("ready", state, self.event_queue.qsize()))
        if state == "Sta13" or not self.event_queue.empty():
            return False
        return self.take()

    def take(self) -> bool:
        found = self.pdus.pop(0) if self.pdus else self.lose
        if isinstance(found, bytes):
            self.rest = found
            return True
        found()
        return False

    def lose(self) -> None:
        self.event_queue.put("Evt17")

    def recv(self, nr_bytes: int) -> bytearray:
        self.calls.append(("recv", nr_bytes))
        found, self.rest = self.rest[:nr_bytes], self.rest[nr_bytes:]
        return bytearray(found)

    def send(self, bytestream: bytes) -> None:
        self.calls.append(("send", bytestream[0]))
        self.sent.append(bytes(bytestream))


class Hasty(Patient):
    """Socket that is ready although events wait."""

    @property
    def ready(self) -> bool:
        return self.take()


class Decided(Association):
    """Association that accepts the context of C-ECHO, and keeps the decision in attributes of its own."""

    @property
    def accepted_contexts(self) -> list[PresentationContext]:
        context = build_context(wire.VERIFICATION, wire.IMPLICIT_VR_LITTLE_ENDIAN)
        context.context_id, context.result = 1, 0
        return [context]


class Acceptor:
    """An association of pynetdicom whose loop runs in the thread of the test, with *pdus* from the peer."""

    def __init__(self, pdus: list[Any], connection: socket.socket, kind: type[Patient] = Patient) -> None:
        ae = AE("PRELIM")
        ae.acse_timeout = ae.network_timeout = None
        self.association = Decided(ae, "acceptor")
        self.association.requestor.address_info = AddressInformation("127.0.0.1", 0)
        self.socket = kind(self.association, pdus, connection)
        self.association.set_socket(self.socket)
        indications: Any = self.association.dul.to_user_queue
        indications.put = self.indicate
        self.indications: list[tuple[type, int, str]] = []
        self.queued: list[int] = []

    def indicate(self, primitive: Any) -> None:
        state = self.association.dul.state_machine.current_state
        self.indications.append((type(primitive), threading.get_ident(), state))
        if isinstance(primitive, A_ASSOCIATE):
            self.association.requestor.primitive = primitive
            self.association.acse.send_accept()
            self.queued.append(self.association.dul.to_provider_queue.qsize())
        elif isinstance(primitive, A_RELEASE):
            self.association.acse.send_release(is_response=True)

    def abort(self) -> None:
        self.association.acse.send_ap_abort(6)
        if self.association.dul.state_machine.current_state == "Sta2":
            self.association.dul.event_queue.put("Evt19")

    def run(self) -> Acceptor:
        self.association.dul.run_reactor()
        return self

    @property
    def sent(self) -> list[int]:
        """Types of the PDUs sent."""
        return [pdu[0] for pdu in self.socket.sent]


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    near, far = socket.socketpair()
    with near, far:
        yield near


SYNTAX = wire.item(0x40, wire.IMPLICIT_VR_LITTLE_ENDIAN.encode())
REQUEST, RELEASE = wire.associate_rq(), wire.pdu(wire.RELEASE_RQ, bytes(4))


def test_one_turn_sends_then_asks_ready_then_reads_header_and_content(connection: socket.socket) -> None:
    calls = Acceptor([REQUEST], connection).run().socket.calls
    first = calls.index(("recv", 6))
    assert calls[first - 1][0] == "ready"
    assert calls[first : first + 3] == [("recv", 6), ("recv", len(REQUEST) - 6), ("send", wire.ASSOCIATE_AC)]
    assert calls[first + 3][:2] == ("ready", "Sta6"), "the answer is sent before the next read"


@pytest.mark.parametrize(
    ("pdus", "states", "sent"),
    [
        ([], ["Sta2"], []),
        ([wire.pdu(9, b"")], ["Sta2", "Sta13"], [wire.ABORT]),
        ([REQUEST], ["Sta2", "Sta6"], [wire.ASSOCIATE_AC]),
        ([REQUEST, RELEASE], ["Sta2", "Sta6", "Sta13"], [wire.ASSOCIATE_AC, wire.RELEASE_RP]),
    ],
    ids=["closed", "invalid", "closed in the association", "released"],
)
def test_states_and_events_keep_their_names(
    connection: socket.socket, pdus: list[bytes], states: list[str], sent: list[int]
) -> None:
    acceptor = Acceptor(pdus, connection).run()
    asked = [call[1] for call in acceptor.socket.calls if call[0] == "ready" and call[2] == 0]
    assert list(dict.fromkeys(asked)) == states
    assert acceptor.sent == sent
    assert acceptor.association.dul.state_machine.current_state == "Sta1"


@pytest.mark.parametrize("before", [[], [REQUEST]], ids=["before the request", "in the association"])
def test_abort_of_the_provider_carries_its_reason(connection: socket.socket, before: list[bytes]) -> None:
    acceptor = Acceptor([], connection)
    acceptor.socket.pdus = [*before, acceptor.abort]
    assert acceptor.run().socket.sent[-1] == wire.pdu(wire.ABORT, bytes((0, 0, 2, 6)))


def test_indications_come_in_the_thread_of_the_loop(connection: socket.socket) -> None:
    ends = ([RELEASE], [], [wire.pdu(wire.ABORT, bytes(4))])
    found = [Acceptor([REQUEST, *end], connection).run().indications for end in ends]
    assert [[kind for kind, _, _ in indications] for indications in found] == [
        [A_ASSOCIATE, A_RELEASE],
        [A_ASSOCIATE, A_P_ABORT],
        [A_ASSOCIATE, A_ABORT],
    ]
    assert {thread for indications in found for _, thread, _ in indications} == {threading.get_ident()}


def test_loop_runs_in_a_thread_that_is_not_its_own(connection: socket.socket) -> None:
    acceptor = Acceptor([REQUEST, RELEASE], connection).run()
    assert not acceptor.association.dul.is_alive()
    assert not acceptor.association.is_alive()
    assert acceptor.sent == [wire.ASSOCIATE_AC, wire.RELEASE_RP]


def test_accept_only_queues_the_contexts_that_the_association_names(connection: socket.socket) -> None:
    acceptor = Acceptor([REQUEST], connection).run()
    assert acceptor.indications[0][2] == "Sta2", "the event of the request is still being handled"
    assert acceptor.queued == [1]
    assert acceptor.sent == [wire.ASSOCIATE_AC]
    assert wire.item(0x21, bytes((1, 0, 0, 0)) + SYNTAX) in acceptor.socket.sent[0]


def test_pdu_read_before_the_event_of_the_last_one_is_in_the_wrong_state(connection: socket.socket) -> None:
    patient, hasty = (Acceptor([REQUEST, RELEASE], connection, kind) for kind in (Patient, Hasty))
    assert patient.run().sent == [wire.ASSOCIATE_AC, wire.RELEASE_RP]
    with pytest.raises(InvalidEventError):
        hasty.run()
    assert hasty.sent != patient.sent


def test_tested_version_is_the_pinned_one() -> None:
    assert version("pynetdicom") == "3.0.4"
    assert '"pynetdicom==3.0.4"' in (REPOSITORY / "pyproject.toml").read_text()


def private(name: str) -> bool:
    return name.startswith("_") and name.strip("_") != "" and not name.startswith("__")


def names_of(tree: ast.AST) -> set[str]:
    """Attributes, functions, classes and variables named in the code."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found


def sources_of_pynetdicom() -> list[Path]:
    specification = find_spec("pynetdicom")
    assert specification is not None
    return sorted(Path(str(specification.origin)).parent.glob("*.py"))


SOURCES = sources_of_pynetdicom()
TREES = [ast.parse(path.read_text()) for path in SOURCES]
THEIRS = {name for tree in TREES for name in names_of(tree) if private(name)} | {
    path.stem for path in SOURCES if private(path.stem)
}
THEIR_CLASSES = {node.name for tree in TREES for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
#: Where the second argument, or the last part of the first one, names an attribute.
BY_NAME = {"getattr", "setattr", "delattr", "hasattr", "attrgetter", "methodcaller", "vars"}


@cache
def files() -> dict[Path, ast.AST]:
    """Modules of the listener, their tests, and every other one that names pynetdicom; not this one."""
    paths = (path for root in ROOTS for path in (REPOSITORY / root).rglob("*.py") if path != Path(__file__))
    texts = {path.relative_to(REPOSITORY): path.read_text() for path in paths}
    return {
        path: ast.parse(text)
        for path, text in texts.items()
        if "dicom_listener" in path.parts or "fuzz" in path.parts or "pynetdicom" in text
    }


def is_theirs(node: ast.ClassDef) -> bool:
    """Return whether a class is derived from one of pynetdicom, by its name."""
    return any(ast.unparse(base).rpartition(".")[2] in THEIR_CLASSES for base in node.bases)


def uses(tree: ast.AST, scope: ast.ClassDef | None = None) -> list[str]:
    """Return the uses of private names of pynetdicom.

    Only an object of a class that is not derived from pynetdicom may have such a name: as attribute of its `self`.
    """
    found = []
    for node in ast.iter_child_nodes(tree):
        found += use(node, scope)
        found += uses(node, node if isinstance(node, ast.ClassDef) else scope)
    return found


def use(node: ast.AST, scope: ast.ClassDef | None) -> list[str]:
    own = scope is not None and not is_theirs(scope)
    if isinstance(node, ast.Attribute) and node.attr in THEIRS:
        return [] if own and isinstance(node.value, ast.Name) and node.value.id == "self" else [node.attr]
    if isinstance(node, ast.FunctionDef | ast.AnnAssign) and scope is not None and is_theirs(scope):
        name = node.name if isinstance(node, ast.FunctionDef) else ast.unparse(node.target)
        return [name] if name in THEIRS else []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return sorted(THEIRS & set(re.split(r"\W+", node.value)))
    return imported(node)


def computed(tree: ast.AST) -> list[str]:
    """Return the calls that reach an attribute whose name is not written there."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [ast.unparse(call) for call in calls if function_of(call) in BY_NAME and not names_are_written(call)]


def function_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


def names_are_written(call: ast.Call) -> bool:
    """Return whether the name is a constant, or an element of the test's parameters, which are constants."""
    return all(isinstance(each, ast.Constant | ast.Starred) for each in call.args[1:2] or call.args[:1])


def is_import(node: ast.AST) -> bool:
    """Return whether this is an import from pynetdicom."""
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    return any(name.split(".")[0] == "pynetdicom" for name in names)


def imported(node: ast.AST) -> list[str]:
    """Return the private parts of an import from pynetdicom."""
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        return []
    return [name for name in names if name.split(".")[0] == "pynetdicom" and any(map(private, name.split(".")))]


def test_no_private_name_of_pynetdicom_is_used() -> None:
    assert {"_reactor_checkpoint", "_accepted_cx", "_kill_thread", "_send", "_config"} <= THEIRS
    found = {str(path): uses(tree) for path, tree in files().items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_names_are_not_computed_where_objects_of_pynetdicom_are_used() -> None:
    users = {
        path: tree for path, tree in files().items() if "receive" in path.parts or any(map(is_import, ast.walk(tree)))
    }
    found = {str(path): computed(tree) for path, tree in users.items()}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code",
    [
        "def f(self):\n    self.association._accepted_cx = []",
        "self.association.acse._check_async_ops()",
        "getattr(a, '_accepted_cx')",
        "class A(Association):\n    def _run_reactor(self):\n        super()._run_reactor()",
        "class A(association.Association):\n    def f(self):\n        self._kill",
        "class A:\n    def f(self, other):\n        other._kill",
        "monkeypatch.setattr('pynetdicom.association.Association._run_reactor', None)",
        "monkeypatch.setattr(Association, '_run_reactor', None)",
        "from pynetdicom import _config",
        "import pynetdicom._globals",
        "pynetdicom._config.LOG_HANDLER_LEVEL = 'none'",
    ],
)
def test_use_of_a_private_name_is_found(code: str) -> None:
    assert uses(ast.parse(code)) != []


@pytest.mark.parametrize("code", ["getattr(a, name + '_cx')", "vars(a)", "monkeypatch.setattr(A, name, None)"])
def test_computed_name_is_found(code: str) -> None:
    assert computed(ast.parse(code)) != []


@pytest.mark.parametrize(
    "code",
    ["class A:\n    def _send(self):\n        self._send()", "def _send():\n    _send()", "getattr(a, 'reason', None)"],
)
def test_name_of_our_own_is_no_such_use(code: str) -> None:
    assert uses(ast.parse(code)) + computed(ast.parse(code)) == []
