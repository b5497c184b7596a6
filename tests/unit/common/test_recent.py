"""A bounded dictionary forgets what was set least recently."""

from __future__ import annotations

from common.recent import RecentDict


def test_entry_that_was_set_least_recently_is_forgotten() -> None:
    recent: RecentDict[str, int] = RecentDict(2)
    recent["first"] = 1
    recent["second"] = 2
    recent["first"] = 3
    recent["third"] = 4
    assert list(recent.items()) == [("first", 3), ("third", 4)]
