"""The word of what the front sent: heard, or counted as lost."""

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

PATIENCE = 30.0
MANY = 20_000


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that sends as nginx does, to a port that is free."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(sent_bytes, "ADDRESS", free.getsockname())
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as made:
        made.connect(sent_bytes.ADDRESS)
        yield made


def test_bytes_are_told_by_kind_and_what_is_no_word_of_them_is_left_out(front: socket.socket) -> None:
    told: Counter[str] = Counter()
    hearer = SentBytes(lambda kind, size: told.update({kind: size}), lambda count: told.update({"untold": count}))
    threading.Thread(target=hearer.listen, daemon=True).start()
    for word in (b"blob 12", b"manifest 5", b"blob 30", b"blob -1", b"other 7", b"blob", b"", b"blob 1 2", b"blob 100"):
        front.send(b"<190>Nov  4 09:40:00 nginx: " + word)
    front.send(b"\xff")
    wait_for("the last word", lambda: told["blob"] >= 142, PATIENCE, 0.01)
    assert told == Counter({"blob": 142, "manifest": 5})


def test_what_finds_no_room_holds_up_nobody_and_is_counted(front: socket.socket) -> None:
    """Nobody listens at first: each word is either heard later or known to be lost."""
    told: Counter[str] = Counter()
    hearer = SentBytes(lambda kind, _: told.update([kind]), lambda count: told.update({"untold": count}))
    sent = 0

    def send() -> None:
        nonlocal sent
        front.send(b"<190>Nov 24 09:40:00 nginx: blob 1", socket.MSG_DONTWAIT)
        sent += 1

    for _ in range(MANY):
        send()
    threading.Thread(target=hearer.listen, daemon=True).start()
    wait_for("what was kept", lambda: told["blob"] > 0, PATIENCE, 0.01)

    def all_known() -> bool:
        # The kernel says what was lost with what comes next.
        if told["blob"] + told["untold"] < sent:
            send()
            return False
        return True

    wait_for("the rest to be known as lost", all_known, PATIENCE, 0.05)
    assert told["untold"] > 0
    assert told["blob"] + told["untold"] == sent
