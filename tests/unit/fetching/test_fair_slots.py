"""No client can take all slots, whatever the clients do, and a client without a slot gets one."""

from __future__ import annotations

from collections import Counter

from fetching.fair_slots import FairSlots
from hypothesis import given
from hypothesis import strategies as st


def test_one_client_gets_half_and_the_next_one_a_quarter() -> None:
    slots = FairSlots(16)
    assert [sum(slots.take(client) for _ in range(20)) for client in "abcd"] == [8, 4, 2, 1]
    assert slots.taken == 15


@given(st.integers(1, 40), st.lists(st.tuples(st.booleans(), st.sampled_from("abcde"))))
def test_slots_are_divided_fairly(capacity: int, steps: list[tuple[bool, str]]) -> None:
    slots, taken = FairSlots(capacity), Counter[str]()
    for takes, client in steps:
        free = capacity - taken.total()
        if takes:
            is_taken = slots.take(client)
            assert is_taken is (taken[client] < free)
            taken[client] += is_taken
        elif taken[client]:
            slots.release(client)
            taken[client] -= 1
        assert slots.taken == taken.total() <= capacity
        assert slots._taken_by == +taken, "nothing is remembered of clients that have no slot"
