"""Gives out bearer tokens as the large registries do: `python -m upstreams.token_server ADDRESS PORT FOLDER`.

FOLDER has the settings and the key that `prepare` wrote. The protocol and the claims are distribution's
(docs/content/spec/auth/token.md and jwt.md). Everybody may pull, but what is below private/ only with the credentials.
"""

from __future__ import annotations

import base64
import json
import secrets
import sys
import time
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from upstreams.plain_server import PlainServer

ISSUER = "test cluster"
PRIVATE = "private/"
# How long a token is good where nginx says nothing else: what Docker Hub says. Seconds.
LIFETIME = 300
LIFETIME_HEADER = "X-Token-Seconds"
# So long after its end distribution still takes a token (registry/auth/token/token.go: Leeway). Seconds.
LEEWAY = 60
KEY_ID = "test-cluster"
COORDINATE_BYTES = 32


def prepare(folder: Path, service: str, credentials: str) -> Path:
    """Write the key and the settings into `folder`; the file that makes distribution trust the key is returned.

    `credentials` is `user:password`.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "settings.json").write_text(json.dumps({"service": service, "credentials": credentials}))
    point = key.public_key().public_numbers()
    coordinates = {name: _base64(getattr(point, name).to_bytes(COORDINATE_BYTES, "big")) for name in ("x", "y")}
    trusted = folder / "jwks.json"
    public = {"kty": "EC", "crv": "P-256", "kid": KEY_ID, "alg": "ES256", "use": "sig", **coordinates}
    trusted.write_text(json.dumps({"keys": [public]}))
    return trusted


class Tokens:
    """Signs what `prepare` has settled."""

    def __init__(self, folder: Path) -> None:
        """Read the key and the settings."""
        key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        settings = json.loads((folder / "settings.json").read_text())
        self.service: str = settings["service"]
        self.credentials: bytes = settings["credentials"].encode()

    def token(self, access: list[dict[str, Any]], seconds: int = LIFETIME) -> str:
        """A token that distribution takes for so many seconds from now, and not longer."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": "",
            "aud": self.service,
            "exp": now + seconds - LEEWAY,
            "nbf": now,
            "iat": now,
            "jti": secrets.token_hex(),
            "access": access,
        }
        signed = ".".join(
            _base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ES256", "kid": KEY_ID}, claims)
        )
        # RFC 7518, 3.4: both numbers one after the other, where the library writes ASN.1.
        numbers = utils.decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64(b''.join(number.to_bytes(COORDINATE_BYTES, 'big') for number in numbers))}"


class Handler(BaseHTTPRequestHandler):
    """Answers one request for a token."""

    protocol_version = "HTTP/1.1"
    tokens: ClassVar[Tokens]

    def do_GET(self) -> None:
        authorization = self.headers.get("Authorization", "")
        known = authorization == f"Basic {base64.b64encode(self.tokens.credentials).decode()}"
        if authorization and not known:
            self._send(HTTPStatus.UNAUTHORIZED, {"details": "incorrect username or password"})
            return
        query = parse_qs(urlsplit(self.path).query)
        if query.get("service") != [self.tokens.service]:
            self._send(HTTPStatus.BAD_REQUEST, {"details": "another service's tokens"})
            return
        seconds = int(self.headers.get(LIFETIME_HEADER, LIFETIME))
        token = self.tokens.token(_access(query.get("scope", []), known=known), seconds)
        issued = datetime.now(UTC).isoformat(timespec="seconds")
        # Both names, as the specification has it.
        answer = {"token": token, "access_token": token, "expires_in": seconds, "issued_at": issued}
        self._send(HTTPStatus.OK, answer)

    def do_POST(self) -> None:
        """Refuse OAuth 2 as registries do that do not have it; clients then ask by GET."""
        self.close_connection = True
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, {"details": "GET it"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Nothing: nginx has the access log."""

    def _send(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _access(scopes: list[str], *, known: bool) -> list[dict[str, Any]]:
    """What is granted of what is asked for, `repository:<name>:pull,push`, several of them apart or in one."""
    granted = []
    for scope in " ".join(scopes).split():
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        may_pull = kind == "repository" and "pull" in actions.split(",") and (known or not name.startswith(PRIVATE))
        granted.append({"type": kind, "name": name, "actions": ["pull"] if may_pull else []})
    return granted


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def main(arguments: list[str]) -> None:
    """Serve until ended."""
    address, port, folder = arguments
    Handler.tokens = Tokens(Path(folder))
    PlainServer((address, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
