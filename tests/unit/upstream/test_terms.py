"""What a repository asks for is tried for others only if most of them agree, and is not remembered without end."""

from __future__ import annotations

import pytest
from upstream import terms
from upstream.errors import Unavailable
from upstream.terms import BEARER, Demand, RememberedTerms, Terms, default_scope, parse_terms
from upstream.urls import Url

ONE, OTHER = (Demand(BEARER, Url.parse(f"https://{name}.example.com/token"), "s") for name in ("one", "other"))


def confirmed(*demands: Demand | None) -> RememberedTerms:
    remembered = RememberedTerms()
    for number, demand in enumerate(demands):
        remembered.confirm(str(number), Terms(demand, default_scope(str(number))))
    return remembered


@pytest.mark.parametrize(
    ("demands", "tried"),
    [
        ((ONE,), ONE),
        ((ONE, ONE, OTHER), ONE),
        ((ONE, OTHER), None),
        ((ONE, None), None),
        ((None, None, ONE), None),
        ((), None),
    ],
)
def test_majority_decides_what_is_tried_for_a_new_repository(
    demands: tuple[Demand | None, ...], tried: Demand | None
) -> None:
    found = confirmed(*demands).find("new")
    assert found == (None if tried is None else Terms(tried, default_scope("new"), is_own=False))


def test_repository_keeps_what_it_asked_for_itself() -> None:
    remembered = confirmed(ONE, ONE, OTHER)
    assert remembered.find("2") == Terms(OTHER, default_scope("2"))
    remembered.learn("0", Terms(OTHER, "x"))
    assert remembered.find("0") == Terms(OTHER, "x")
    remembered.forget("0")
    remembered.forget("1")
    assert remembered.find("0") == Terms(OTHER, default_scope("0"), is_own=False)


def test_what_let_nobody_in_is_not_tried_for_others() -> None:
    remembered = RememberedTerms()
    remembered.learn("a", Terms(ONE, "x"))
    assert remembered.find("b") is None


def test_number_of_remembered_repositories_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "MAX_REPOSITORIES", 2)
    remembered = confirmed(ONE, ONE)
    remembered.find("0")
    remembered.confirm("2", Terms(None, "x"))
    assert set(remembered._terms) == set(remembered._proven) == {"0", "2"}


@pytest.mark.parametrize("header", ["Bearer x", 'Bearer realm="/token"', f'Bearer realm="https://x/{"y" * 5000}"'])
def test_token_server_without_a_usable_url_is_an_error(header: str) -> None:
    with pytest.raises(Unavailable, match=r"^here names a token server without a valid URL$"):
        parse_terms([header], "here", "a")


def test_challenge_that_nobody_can_meet_is_an_error() -> None:
    with pytest.raises(ValueError, match="not supported"):
        parse_terms(["Negotiate"], "here", "a")
