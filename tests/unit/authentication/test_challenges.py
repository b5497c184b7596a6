"""How a registry asks for authentication."""

from __future__ import annotations

import pytest
from authentication.challenges import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            ['Bearer realm="https://auth.docker.io/token",service="hub",scope="repository:a/b:pull,x"'],
            [("bearer", {"realm": "https://auth.docker.io/token", "service": "hub", "scope": "repository:a/b:pull,x"})],
        ),
        (['BEARER Realm = "r" , SERVICE=s'], [("bearer", {"realm": "r", "service": "s"})]),
        (['Basic realm="a, b=\\"c\\" \\\\"'], [("basic", {"realm": 'a, b="c" \\'})]),
        (
            ['Negotiate, NTLM abc==, Basic realm="x", Bearer realm="y",service=""'],
            [("negotiate", {}), ("ntlm", {}), ("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": ""})],
        ),
        (['Basic realm="x"', 'Bearer realm="y"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (['Bearer realm="never ends'], [("bearer", {})]),
        ([""], []),
        (['realm="of nothing"'], []),
    ],
)  # fmt: skip
def test_challenges_are_parsed(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    challenges = parse_challenges(headers)
    assert [challenge for challenge in challenges if challenge.scheme in {scheme for scheme, _ in expected}] == [
        Challenge(*entry) for entry in expected
    ]
