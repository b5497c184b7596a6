"""The Secret with the credentials for an upstream, in each form that people have.

It has the keys username and password, or it is a pull secret as pods have it, of type kubernetes.io/dockerconfigjson
or kubernetes.io/dockercfg. In a pull secret, an image's credentials are found as the kubelet finds them (Kubernetes,
pkg/credentialprovider/keyring.go): several entries may match, and the longest one comes first.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, NamedTuple

from common.json_reader import parse_json
from upstream.credentials import Credentials, read_secret

if TYPE_CHECKING:
    from pathlib import Path

DOCKER_CONFIG_JSON = ".dockerconfigjson"
DOCKER_CONFIG = ".dockercfg"
LOGIN = ("username", "password")
# What `docker login` without a name writes, and what the kubelet takes for images of docker.io.
DOCKER_HUB, DOCKER_HUB_ENTRY = "docker.io", "index.docker.io"


class UnusableSecret(Exception):
    """The Secret has no credentials for the upstream; the message is what follows the name of the Secret."""


class PullSecret(NamedTuple):
    """The credentials of a Secret, each with the image names that it is for; an empty one stands for all images."""

    entries: tuple[tuple[str, Credentials], ...]
    registries: tuple[str, ...] = ()

    def choose(self, repository: str) -> tuple[Credentials, ...]:
        """Return the credentials for a repository of the upstream, in the order in which to try them."""
        for registry in self.registries or ("",):
            image = f"{registry}/{repository}"
            if chosen := tuple(
                credentials for entry, credentials in self.entries if not entry or _matches(entry, image)
            ):
                return chosen
        return ()


class MountedSecret(NamedTuple):
    """The folder of a mounted Secret, what messages call it, and the names of the upstream in a pull secret."""

    folder: Path
    name: str
    registries: tuple[str, ...]

    def read(self) -> PullSecret:
        """Return what it holds now.

        Raises:
            UnusableSecret: It has no credentials for the upstream, or cannot be read.
        """
        try:
            return read_pull_secret(self.folder, self.registries)
        except UnusableSecret as problem:
            message = f"{self.name} {problem}"
        except OSError as error:
            message = f"{self.name} cannot be read: {error.strerror or error}"
        raise UnusableSecret(message)


def read_pull_secret(folder: Path, registries: tuple[str, ...]) -> PullSecret:
    """Return what a mounted Secret holds now for a registry, which may have several names.

    Raises:
        UnusableSecret: It does not exist, or has no credentials for the registry.
        OSError: It cannot be read.
    """
    values = read_secret(folder, LOGIN)
    if len(values) == len(LOGIN):
        credentials = Credentials(values["username"], values["password"])
        if any(credentials):
            return PullSecret((("", credentials),))
        message = "has an empty username and an empty password"
        raise UnusableSecret(message)
    for key in (DOCKER_CONFIG_JSON, DOCKER_CONFIG):
        if content := read_secret(folder, (key,)):
            return PullSecret(_read_entries(content[key], key, registries), registries)
    # The kubelet mounts an empty folder for a Secret that does not exist.
    if not folder.is_dir() or not any(not file.name.startswith("..") for file in folder.iterdir()):
        message = "does not exist or is empty"
    else:
        message = "has neither the keys username and password nor a key .dockerconfigjson or .dockercfg"
    raise UnusableSecret(message)


def _read_entries(content: bytes, key: str, registries: tuple[str, ...]) -> tuple[tuple[str, Credentials], ...]:
    """Return the entries for the registry, with their normalized names."""
    try:
        config = parse_json(content)
    except ValueError:
        config = None
    if key == DOCKER_CONFIG_JSON and isinstance(config, dict):
        config = config.get("auths")
    if not isinstance(config, dict):
        message = f"has a key {key} that is not a Docker configuration"
        raise UnusableSecret(message)
    named = [(_normalize(str(name)), str(name), entry) for name, entry in config.items()]
    # As the kubelet sorts them: a longer path comes before a shorter one of the same registry.
    matching = [one for one in sorted(named, key=lambda one: one[0], reverse=True) if _is_for(one[0], registries)]
    if not matching:
        message = f"has a key {key} without an entry for {registries[0]}"
        raise UnusableSecret(message)
    return tuple((entry, _to_credentials(value, name, key)) for entry, name, value in matching)


def _is_for(entry: str, registries: tuple[str, ...]) -> bool:
    host, _, path = entry.partition("/")
    return any(_matches(host, f"{registry}/{path}") for registry in registries)


def _to_credentials(value: object, name: str, key: str) -> Credentials:
    fields = value if isinstance(value, dict) else {}
    texts = {field: text for field, text in fields.items() if isinstance(text, str) and text}
    username, password = texts.get("username", "").encode(), texts.get("password", "").encode()
    if "auth" in texts:
        username, password = _decode_auth(texts["auth"], name, key)
    credentials = Credentials(username, password, texts.get("identitytoken", "").encode())
    if not any(credentials):
        message = f"has a key {key} whose entry {name} has no username and password, auth or identitytoken"
        raise UnusableSecret(message)
    return credentials


def _decode_auth(auth: str, name: str, key: str) -> tuple[bytes, bytes]:
    text = auth.strip()
    try:
        username, colon, password = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).partition(b":")
    except (ValueError, binascii.Error):
        colon = b""
    if not colon:
        message = f"has a key {key} whose entry {name} has an auth that is not base64 of username:password"
        raise UnusableSecret(message)
    return username, password


def _normalize(name: str) -> str:
    """Return the name of an entry without its scheme, and without the /v1/ or /v2/ of an API."""
    host, slash, path = re.sub("^https?://", "", name).partition("/")
    path = re.sub("^/v[12]/", "/", slash + path)
    host = DOCKER_HUB if host == DOCKER_HUB_ENTRY else host
    return host if path in ("", "/") else host + path


def _matches(entry: str, image: str) -> bool:
    """Return whether an entry is for an image: * stands for any part of one label of the host (URLsMatch)."""
    host, slash, path = entry.partition("/")
    image_host, _, image_path = image.partition("/")
    pattern = "[^.:]*".join(re.escape(part) for part in host.split("*"))
    return bool(re.fullmatch(pattern, image_host)) and image_path.startswith(path if slash else "")
