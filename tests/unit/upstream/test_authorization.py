"""What the client shows of the secrets that it handles."""

from __future__ import annotations

from authentication.tokens import Token
from upstream.authorization import _Authorization
from upstream.credentials import Credentials


def test_secrets_are_never_shown() -> None:
    token = Token("s3cret", 1.0)
    credentials = Credentials(b"user", b"s3cret")
    authorization = _Authorization("Bearer s3cret", token=token)
    assert "s3cret" not in f"{token} {token!r} {credentials} {credentials!r} {[credentials]} {authorization!r}"
