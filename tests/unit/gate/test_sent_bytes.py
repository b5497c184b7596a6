"""Reports of the front about sent bytes are counted, and so are the reports that were lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from gate import sent_bytes
from gate.sent_bytes import SentBytes
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_SECONDS = 30.0
MORE_THAN_THE_BUFFER_HOLDS = 20_000


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that sends as nginx does, to a free port."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(sent_bytes, "ADDRESS", free.getsockname())
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.connect(sent_bytes.ADDRESS)
        yield sender


def test_bytes_are_counted_by_kind_and_malformed_reports_are_ignored(front: socket.socket) -> None:
    counted: Counter[str] = Counter()
    receiver = SentBytes(
        lambda kind, size: counted.update({kind: size}), lambda count: counted.update({"uncounted": count})
    )
    threading.Thread(target=receiver.receive_forever, daemon=True).start()
    for report in (
        b"blob 12",
        b"manifest 5",
        b"blob 30",
        b"blob -1",
        b"other 7",
        b"blob",
        b"",
        b"blob 1 2",
        b"blob 100",
    ):
        front.send(b"<190>Nov  4 09:40:00 nginx: " + report)
    front.send(b"\xff")
    wait_for("the last report", lambda: counted["blob"] >= 142, TIMEOUT_SECONDS, 0.01)
    assert counted == Counter({"blob": 142, "manifest": 5})


def test_reports_without_room_delay_nobody_and_are_counted(front: socket.socket) -> None:
    """Nobody receives at first: each report is either counted later or known to be lost."""
    counted: Counter[str] = Counter()
    receiver = SentBytes(lambda kind, _: counted.update([kind]), lambda count: counted.update({"uncounted": count}))
    sent = 0

    def send() -> None:
        nonlocal sent
        front.send(b"<190>Nov 24 09:40:00 nginx: blob 1", socket.MSG_DONTWAIT)
        sent += 1

    for _ in range(MORE_THAN_THE_BUFFER_HOLDS):
        send()
    threading.Thread(target=receiver.receive_forever, daemon=True).start()
    wait_for("the reports that were kept", lambda: counted["blob"] > 0, TIMEOUT_SECONDS, 0.01)

    def are_all_accounted_for() -> bool:
        # The kernel reports the lost datagrams with the next one.
        if counted["blob"] + counted["uncounted"] < sent:
            send()
            return False
        return True

    wait_for("the other reports to count as lost", are_all_accounted_for, TIMEOUT_SECONDS, 0.05)
    assert counted["uncounted"] > 0
    assert counted["blob"] + counted["uncounted"] == sent
