"""Issues bearer tokens as the large registries do: `python -m upstreams.token_server ADDRESS PORT FOLDER`.

The protocol and the claims are those of distribution (docs/content/spec/auth/token.md and jwt.md). Everybody may pull,
but repositories below private/ only with the credentials. More accounts may have some of them
(`Upstream.set_accounts`).
"""

from __future__ import annotations

import base64
import json
import secrets
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from upstreams.plain_server import PlainServer

if TYPE_CHECKING:
    import threading

ISSUER = "test bed"
PRIVATE = "private/"
# The lifetime of Docker Hub's tokens, which nginx may replace by this header.
LIFETIME_SECONDS = 300
LIFETIME_HEADER = "X-Token-Seconds"
# distribution accepts a token for this long after its end (registry/auth/token/token.go: Leeway).
LEEWAY_SECONDS = 60
# How long a silent server holds a request.
SILENCE_SECONDS = 60.0
KEY_ID = "test-bed"
COORDINATE_BYTES = 32
# The file in the folder with the logins of more accounts, and the prefix of the repositories that each may pull.
ACCOUNTS = "accounts.json"


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class TokenServer:
    """Signs tokens for `service`, and grants everything to clients with the `login`, which is `user:password`.

    `announced_seconds` and `accepted_seconds` are how long a token is good, by the response and for distribution.
    With `status` all requests are refused, and with `silent` they wait until it is set. `requests` are the scopes and
    the Authorization headers of all requests. `url` is for the caller to remember where it listens.
    """

    service: str
    login: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=_new_key)
    announced_seconds: int = LIFETIME_SECONDS
    accepted_seconds: int | None = None
    status: int = 0
    silent: threading.Event | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""
    folder: Path | None = None

    @classmethod
    def load(cls, folder: Path) -> TokenServer:
        """Read what `save` has written."""
        key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(**json.loads((folder / "settings.json").read_text()), key=key, folder=folder)

    def save(self, folder: Path) -> Path:
        """Write the key and the settings into a folder, and return the file by which distribution trusts the key."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (folder / "key.pem").write_bytes(self.key.private_bytes(encoding, form, serialization.NoEncryption()))
        (folder / "settings.json").write_text(json.dumps({"service": self.service, "login": self.login}))
        point = self.key.public_key().public_numbers()
        coordinates = {name: _base64(getattr(point, name).to_bytes(COORDINATE_BYTES, "big")) for name in ("x", "y")}
        public = {"kty": "EC", "crv": "P-256", "kid": KEY_ID, "alg": "ES256", "use": "sig", **coordinates}
        trusted = folder / "jwks.json"
        trusted.write_text(json.dumps({"keys": [public]}))
        return trusted

    def find_prefix(self, authorization: str) -> str | None:
        """Return the prefix of the repositories that credentials open, or None if they are wrong."""
        accounts = {self.login: ""}
        if self.folder is not None and (self.folder / ACCOUNTS).exists():
            accounts |= json.loads((self.folder / ACCOUNTS).read_text())
        shown = {f"Basic {base64.b64encode(login.encode()).decode()}": prefix for login, prefix in accounts.items()}
        return shown.get(authorization)

    def token(self, scopes: str, *, opens: str | None, seconds: int | None = None) -> str:
        """Return a token for these scopes that distribution accepts for the given time.

        `opens` is the prefix of the repositories that the credentials open, or None without credentials.
        """
        if seconds is None:
            seconds = LIFETIME_SECONDS if self.accepted_seconds is None else self.accepted_seconds
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": "",
            "aud": self.service,
            "exp": now + seconds - LEEWAY_SECONDS,
            "nbf": now - LEEWAY_SECONDS,
            "iat": now,
            "jti": secrets.token_hex(),
            "access": _access(scopes, opens=opens),
        }
        header = {"typ": "JWT", "alg": "ES256", "kid": KEY_ID}
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        # RFC 7518, 3.4: both numbers one after the other, while the library writes ASN.1.
        numbers = utils.decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64(b''.join(number.to_bytes(COORDINATE_BYTES, 'big') for number in numbers))}"

    def listen(self, address: str, port: int) -> PlainServer:
        """Return a server that listens at an address."""

        class Handler(_Handler):
            tokens = self

        return PlainServer((address, port), Handler)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request for a token."""

    protocol_version = "HTTP/1.1"
    tokens: TokenServer

    def do_GET(self) -> None:
        tokens = self.tokens
        query = parse_qs(urlsplit(self.path).query)
        scopes = " ".join(query.get("scope", []))
        authorization = self.headers["Authorization"]
        tokens.requests.append((scopes, authorization))
        if tokens.silent:
            tokens.silent.wait(SILENCE_SECONDS)
        opens = tokens.find_prefix(authorization) if authorization else None
        if tokens.status or (authorization and opens is None):
            details = {"details": "incorrect username or password"}
            self._send(HTTPStatus(tokens.status or HTTPStatus.UNAUTHORIZED), details, ("Retry-After", "7"))
            return
        if query.get("service") != [tokens.service]:
            self._send(HTTPStatus.BAD_REQUEST, {"details": "the service is another one"})
            return
        lifetime = self.headers[LIFETIME_HEADER]
        token = tokens.token(scopes, opens=opens, seconds=None if lifetime is None else int(lifetime))
        seconds = tokens.announced_seconds if lifetime is None else int(lifetime)
        issued = datetime.now(UTC).isoformat(timespec="seconds")
        # The specification has both names.
        answer = {"token": token, "access_token": token, "expires_in": seconds, "issued_at": issued}
        self._send(HTTPStatus.OK, answer)

    def do_POST(self) -> None:
        """Refuse OAuth 2, as registries without it do; clients then use GET."""
        self.close_connection = True
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, {"details": "use GET"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Log nothing, since nginx has the access log."""

    def _send(self, status: HTTPStatus, content: dict[str, Any], *headers: tuple[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response_only(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _access(scopes: str, *, opens: str | None) -> list[dict[str, Any]]:
    """Return the rights that are granted for scopes, which are `repository:<name>:pull,push` with spaces between."""
    granted = []
    for scope in scopes.split():
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        is_open = not name.startswith(PRIVATE) or (opens is not None and name.startswith(opens))
        may_pull = kind == "repository" and "pull" in actions.split(",") and is_open
        granted.append({"type": kind, "name": name, "actions": ["pull"] if may_pull else []})
    return granted


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def main(arguments: list[str]) -> None:
    """Serve until the process is ended."""
    address, port, folder = arguments
    TokenServer.load(Path(folder)).listen(address, int(port)).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
