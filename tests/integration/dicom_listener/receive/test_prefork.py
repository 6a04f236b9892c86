"""Several listener processes: shared limits, killed, frozen, full and replaced ones; nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from db.release import release
from db.settings import Settings
from dicom_listener.receive import status_file, tls
from dicom_listener.spool import file_meta, slots
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.certificates import write_certificate
from tests.fuzz.listener import Broken, Subject, fuzz, listening
from tests.fuzz.wire import LAST, P_DATA_TF, Client, c_store_rq, ct_slice, echoes, pdu, pdv, status
from tests.long_form import size
from tests.polling import runs, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Instead of ten and two seconds.
QUICK = (
    "children.FROZEN_SECONDS = children.SILENT_SECONDS = child_server.SILENT_SECONDS = 2.0;"
    "status_file.WRITE_SECONDS = 0.2"
)
LIMIT = 6


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """Two processes, which the tests damage one after the other."""
    folder = tmp_path_factory.mktemp("processes")
    with listening(folder, QUICK, listener_processes=2, max_associations=LIMIT) as subject:
        wait_until(lambda: len(statuses(subject)) == 2)
        yield subject


@pytest.fixture
def pair(subject: Subject) -> Iterator[tuple[int, int, Client, Client]]:
    """Both processes, and an association with each, which has stored an object."""
    # Associations of the test before count until the processes have found that they are closed.
    wait_until(lambda: [each["open"] for each in statuses(subject)] == [0, 0])
    with Client(subject.port) as first, Client(subject.port) as second:
        for client in (first, second):
            store(subject, client.associate())
        pids = [server_of(subject, client) for client in (first, second)]
        assert len(set(pids)) == 2, "the process with the fewest gets the next one"
        yield pids[0], pids[1], first, second


def store(subject: Subject, client: Client) -> None:
    """Store a new object."""
    uid = f"2.25.{uuid.uuid4().int}"
    assert client.store(uid, ct_slice(uid, pixels=20_000)) == 0
    subject.acknowledged.add(uid)


def stored(subject: Subject) -> set[str]:
    contents = [path.read_bytes() for path in received(Spool(subject.spool))]
    return {file_meta.decode(content).sop_instance_uid for content in contents}


def statuses(subject: Subject) -> list[dict[str, Any]]:
    found = [status_file.read(slot.status) for slot in Spool(subject.spool).slots()]
    return [each for each in found if each and runs(int(each["process"].rpartition(":")[2]))]


def server_of(subject: Subject, client: Client) -> int:
    """Return the process that serves a connection."""
    ports = {client.connection.getsockname()[1]}
    [pid] = [pid for pid in subject.children if served_ports(pid) & ports]
    return pid


def served_ports(pid: int) -> set[int]:
    """Return the remote ports of the connections of a process."""
    inodes = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        inodes[f"socket:[{fields[9]}]"] = int(fields[2].rpartition(":")[2], 16)
    links = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.add(str(path.readlink()))
    return {port for inode, port in inodes.items() if inode in links}


def is_cut(client: Client) -> bool:
    """Return whether the listener has closed the connection."""
    try:
        return client.echo() != 0
    except (ConnectionError, AssertionError, TimeoutError):
        return True


def test_limits_count_the_associations_of_all_processes(subject: Subject) -> None:
    with contextlib.ExitStack() as clients:
        for _ in range(LIMIT):
            clients.enter_context(Client(subject.port)).associate()
        with Client(subject.port) as one_more, pytest.raises(AssertionError, match="local limit|\\(3,"):
            one_more.associate()
        wait_until(lambda: [each["open"] for each in statuses(subject)] == [3, 3])
        wait_until(lambda: {each["parent"]["open"] for each in statuses(subject)} == {LIMIT})
    with Client(subject.port) as client:
        wait_until(lambda: not any(each["open"] for each in statuses(subject)))
        client.associate()


def test_killed_process_cuts_no_association_of_another(subject: Subject, pair: tuple[int, int, Client, Client]) -> None:
    killed, other, cut, kept = pair
    os.kill(killed, signal.SIGKILL)
    assert is_cut(cut)
    store(subject, kept)
    wait_until(lambda: len(subject.children) == 2)
    assert other in subject.children
    assert all(echoes(subject.port) for _ in range(10))
    assert subject.acknowledged <= stored(subject)


def refused(subject: Subject) -> list[int]:
    """Return the refused objects that each process reports; those of another data set than the command's."""
    causes = [each.get("causes", ()) for each in statuses(subject)]
    return [sum(times for kind, _, times, _ in rows if kind == "object") for rows in causes]


def test_refusals_of_a_killed_process_stay_counted(subject: Subject, pair: tuple[int, int, Client, Client]) -> None:
    before = max(refused(subject))
    for client in pair[2:]:
        assert client.store("1.2.3", ct_slice("1.2.4")) != 0
    wait_until(lambda: refused(subject) == [before + 2] * 2)
    os.kill(pair[0], signal.SIGKILL)
    wait_until(lambda: len(subject.children) == 2 and len(statuses(subject)) == 2)
    wait_until(lambda: refused(subject) == [before + 2] * 2)
    assert pair[3].store("1.2.3", ct_slice("1.2.4")) != 0
    wait_until(lambda: refused(subject) == [before + 3] * 2)


def test_replaced_processes_refuse_and_cut_nobody(subject: Subject, pair: tuple[int, int, Client, Client]) -> None:
    before = set(pair[:2])
    uid = f"2.25.{uuid.uuid4().int}"
    data_set = ct_slice(uid, pixels=20_000)
    pair[2].send(pdu(P_DATA_TF, pdv(3, 3, c_store_rq(uid)) + pdv(3, 0, data_set[:10_000])))
    os.kill(subject.pid, signal.SIGHUP)
    wait_until(lambda: echoes(subject.port) and len(set(subject.children) - before) == 2)
    assert set(subject.children) > before, "they serve their associations to the end"

    assert status(pair[2].ask(pdu(P_DATA_TF, pdv(3, LAST, data_set[10_000:])))) == 0
    subject.acknowledged.add(uid)
    for client in pair[2:]:
        store(subject, client)
        client.release()
    wait_until(lambda: echoes(subject.port) and not before & set(subject.children))
    assert subject.acknowledged <= stored(subject)


@pytest.mark.slow
def test_process_stopped_by_a_signal_lets_its_associations_end(
    subject: Subject, pair: tuple[int, int, Client, Client]
) -> None:
    uid = f"2.25.{uuid.uuid4().int}"
    data_set = ct_slice(uid, pixels=20_000)
    pair[2].send(pdu(P_DATA_TF, pdv(3, 3, c_store_rq(uid)) + pdv(3, 0, data_set[:10_000])))
    os.kill(pair[0], signal.SIGTERM)
    assert all(echoes(subject.port) for _ in range(10))
    wait_until(lambda: sorted(each["draining"] for each in statuses(subject)) == [False, False, True])
    assert status(pair[2].ask(pdu(P_DATA_TF, pdv(3, LAST, data_set[10_000:])))) == 0
    subject.acknowledged.add(uid)
    wait_until(lambda: pair[0] not in subject.children and len(subject.children) == 2)
    assert subject.acknowledged <= stored(subject)


@pytest.mark.slow
def test_frozen_process_is_killed_and_its_connections_are_served(
    subject: Subject, pair: tuple[int, int, Client, Client]
) -> None:
    frozen, _, cut, kept = pair
    os.kill(frozen, signal.SIGSTOP)
    assert all(echoes(subject.port) for _ in range(4)), "also those that were handed to it"
    wait_until(lambda: frozen not in subject.children and len(subject.children) == 2)
    assert is_cut(cut)
    store(subject, kept)


@pytest.mark.slow
def test_process_without_free_descriptors_is_replaced(subject: Subject, pair: tuple[int, int, Client, Client]) -> None:
    full = pair[0]
    used = len(list(Path(f"/proc/{full}/fd").iterdir()))
    resource.prlimit(full, resource.RLIMIT_NOFILE, (used, used))
    assert all(echoes(subject.port) for _ in range(6))
    wait_until(lambda: len(subject.children) == 3)
    for client in pair[2:]:
        assert client.echo() == 0
        client.release()
    wait_until(lambda: full not in subject.children and len(subject.children) == 2)


@pytest.mark.slow
def test_status_is_stale_while_the_parent_accepts_no_connection(
    subject: Subject, pair: tuple[int, int, Client, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_file, "STALE_SECONDS", 2.0)
    os.kill(subject.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: not statuses(subject))
        for client in pair[2:]:
            store(subject, client)
    finally:
        os.kill(subject.pid, signal.SIGCONT)
    wait_until(lambda: len(statuses(subject)) == 2 and echoes(subject.port))
    assert set(pair[:2]) == set(subject.children)


def test_sighup_with_an_invalid_peers_file_keeps_the_processes(tmp_path: Path) -> None:
    peers, log = tmp_path / "peers.toml", tmp_path / "listener.log"
    peers.write_text('[[peer]]\nae_title = "FUZZ"\n')
    with (
        listening(tmp_path, listener_processes=2, peers_file=str(peers)) as subject,
        Client(subject.port) as client,
    ):
        wait_until(lambda: len(statuses(subject)) == 2)
        client.associate()
        before = set(subject.children)
        peers.write_text("[[peer]\n")
        os.kill(subject.pid, signal.SIGHUP)
        wait_until(lambda: "listener.processes_kept" in log.read_text())
        time.sleep(0.5)  # two rounds of supervision
        assert (set(subject.children), client.echo(), echoes(subject.port)) == (before, 0, True)
        peers.write_text('[[peer]]\nae_title = "FUZZ"\n')
        os.kill(subject.pid, signal.SIGHUP)
        wait_until(lambda: len(set(subject.children) - before) == 2)
    assert log.read_text().count("listener.process_failed") == 0
    assert not list(tmp_path.glob("spool/slots/*/listener.json")), "statuses of processes that have ended"


def test_replaced_certificate_is_in_every_status_after_sighup_only(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    write_certificate(certificate, key, days=20)
    tls_files = {"tls_certificate": str(certificate), "tls_key": str(key)}
    settings = Settings(tls_certificate=certificate, tls_key=key)
    before = tls.description(settings)
    with listening(tmp_path, listener_processes=2, **tls_files) as subject:
        wait_until(lambda: [each["release"] for each in statuses(subject)] == [release()] * 2)
        wait_until(lambda: [each["certificate"] for each in statuses(subject)] == [before] * 2)
        first = set(subject.children)
        write_certificate(certificate, key, days=400)
        os.kill(subject.children[0], signal.SIGKILL)
        after = tls.description(settings)
        # The process that took its place has the new one: the other serves the earlier one until SIGHUP.
        wait_until(lambda: sorted(each["certificate"] == after for each in statuses(subject)) == [False, True])
        os.kill(subject.pid, signal.SIGHUP)
        wait_until(lambda: not first & set(subject.children))
        wait_until(lambda: [each["certificate"] for each in statuses(subject)] == [after] * 2)


def test_sighup_does_not_end_a_single_process(tmp_path: Path) -> None:
    with listening(tmp_path, listener_processes=1) as subject, Client(subject.port) as client:
        store(subject, client.associate())
        os.kill(subject.pid, signal.SIGHUP)
        wait_until(lambda: "certificate.read" in (tmp_path / "listener.log").read_text())
        store(subject, client)
        assert echoes(subject.port)
    assert not list(tmp_path.glob("spool/slots/*/listener.json")), "its status"


@pytest.mark.slow
def test_listener_that_has_stopped_leaves_no_process(tmp_path: Path) -> None:
    with listening(tmp_path, QUICK, listener_processes=2) as subject:
        wait_until(lambda: len(subject.children) == 2)
        pids = subject.children
    # Not even one that has ended and was not waited for.
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_listener_ends_with_the_cause_if_no_process_can_start(tmp_path: Path) -> None:
    slots_folder = tmp_path / "spool" / "slots"
    slots_folder.mkdir(parents=True)
    (slots_folder / f"{socket.gethostname()}-0").touch()  # no folder: no slot can be made
    cause = f"no process of the listener can start: .*File exists: '{slots_folder}"
    with (
        pytest.raises(Broken, match=cause),
        listening(tmp_path, "pool.FIRST_START_SECONDS = 1.0", listener_processes=2),
    ):
        pytest.fail("it answers")


def test_processes_end_without_their_parent_and_lose_nothing(tmp_path: Path) -> None:
    with listening(tmp_path, listener_processes=2) as subject, Client(subject.port) as client:
        store(subject, client.associate())
        children = subject.children
        os.kill(subject.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(runs, children)))
        assert is_cut(client)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", subject.port)):
            pytest.fail("the port is still bound")
    slots.recover_abandoned(Spool(subject.spool))
    assert subject.acknowledged == stored(subject)


def send_until(subject: Subject, end: float, cuts: list[int]) -> None:
    """Store objects, several in an association; note the local port of each association that was cut."""
    while time.monotonic() < end:
        with Client(subject.port, seconds=30) as client:
            try:
                client.associate()
                for _ in range(20):
                    store(subject, client)
                client.release()
            except ConnectionError:
                cuts.append(client.connection.getsockname()[1])


#: Of the test that kills a process every second: TESTS_KILLED_SECONDS=60 for a longer one.
KILLED_SECONDS = int(os.environ.get("TESTS_KILLED_SECONDS") or size(12, 30))


@pytest.mark.slow
@pytest.mark.timeout(120 + KILLED_SECONDS)
@pytest.mark.parametrize("seconds", [KILLED_SECONDS])
def test_kill_every_second_cuts_only_the_associations_of_the_killed(tmp_path: Path, seconds: int) -> None:
    allowed: Counter[int] = Counter()
    cuts: list[int] = []
    with listening(tmp_path, listener_processes=2) as subject:
        wait_until(lambda: len(statuses(subject)) == 2)
        end = time.monotonic() + seconds
        senders = [threading.Thread(target=send_until, args=(subject, end, cuts)) for _ in range(8)]
        for sender in senders:
            sender.start()
        number = 0
        while time.monotonic() < end:
            time.sleep(1)
            number += 1
            wait_until(lambda: bool(subject.children))
            killed = subject.children[number % len(subject.children)]
            os.kill(killed, signal.SIGSTOP)  # so that its connections can be listed
            allowed.update(served_ports(killed))
            os.kill(killed, signal.SIGKILL)
        for sender in senders:
            sender.join()
        assert number > seconds // 2
        assert not Counter(cuts) - allowed, "an association of another process was cut"
        wait_until(lambda: len(subject.children) == 2)
    slots.recover_abandoned(Spool(subject.spool))
    assert len(subject.acknowledged) > 20 * seconds
    assert subject.acknowledged <= stored(subject)


@pytest.mark.slow
def test_ten_thousand_connections_are_accepted_while_processes_are_replaced(tmp_path: Path) -> None:
    failed: list[str] = []
    with listening(tmp_path, listener_processes=2) as subject:
        wait_until(lambda: len(statuses(subject)) == 2)

        def connect() -> None:
            for _ in range(2500):
                try:
                    if not echoes(subject.port):
                        failed.append("status")
                except (OSError, AssertionError) as error:
                    failed.append(type(error).__name__)

        clients = [threading.Thread(target=connect) for _ in range(4)]
        for client in clients:
            client.start()
        replaced = set(subject.children)
        while any(client.is_alive() for client in clients) or len(replaced) <= 10:
            os.kill(subject.pid, signal.SIGHUP)
            time.sleep(1)
            replaced.update(subject.children)
        assert failed == []


@pytest.mark.slow
def test_fuzzer_finds_nothing_with_two_processes(tmp_path: Path) -> None:
    with listening(tmp_path, listener_processes=2) as subject:
        wait_until(lambda: len(statuses(subject)) == 2)
        assert fuzz(subject, seed=20260101, seconds=size(12, 30)) > size(4, 10)
        assert subject.acknowledged
