"""What a foreign document says about registries, and the caches that are made of it.

No password and no URL is ever taken out of such a document: only names of hosts, and whether there is a login.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry_cache.discover import unsupported_reason
from registry_cache.model.registry_config import DOCKER_HUB, HOST_OF_DOCKER_HUB
from registry_cache.untrusted_text import join_some, printable
from registry_cache.versions import NEWEST

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL_REGISTRIES = ("*", "_default", "")
NAMES_OF_DOCKER_HUB = (HOST_OF_DOCKER_HUB, "index.docker.io", "hub.docker.com", "registry.hub.docker.com")
_NAME = re.compile(r"[a-z0-9.:*_\[\]-]+")
_HOST = re.compile(r"[a-z0-9.:\[\]-]+")
OF_THE_CLUSTER = (".svc", ".cluster.local")


@dataclass
class Facts:
    """What a document says about one host: its mirrors if it is an upstream, and which settings it has."""

    is_upstream: bool = False
    mirrors: list[str] = field(default_factory=list)
    settings: set[str] = field(default_factory=set)


# Settings of a host, and what a person has to know about them.
SETTINGS = {
    "token": "the token is not copied, and a cache takes a username and a password only",
    "certificate authority": "the CA is left out; put it into a ConfigMap, and write its name as "
    "caConfigMapName in upstreamSettings",
    "client certificate": "the client certificate is left out, because a cache cannot show one to its upstream",
    "no verification": "certificates are verified, although the document turns that off; name the upstream's CA with "
    "its caConfigMapName in upstreamSettings",
    "rewrite": "the rewriting of image names is left out, because a cache keeps the names",
    "headers": "the HTTP headers are left out, because a cache sends its own",
    "no fallback": "nodes never pulled from the upstream itself; they do while the cache is away",
}
LOGIN = "login"


class Mirrors:
    """The registries of a foreign document, by their names as it writes them."""

    def __init__(self) -> None:
        """Begin without any registry."""
        self.facts: dict[str, Facts] = {}
        self.notes: list[str] = []

    def add_upstream(self, name: object, mirrors: object = ()) -> None:
        """Add a registry that has mirrors, or that has none yet."""
        if isinstance(name, str):
            facts = self._of(name)
            facts.is_upstream = True
            facts.mirrors += [one for one in (mirrors if isinstance(mirrors, list) else []) if isinstance(one, str)]

    def add_setting(self, name: object, setting: str) -> None:
        """Add a setting of a host, which may be an upstream or a mirror."""
        if isinstance(name, str):
            self._of(name).settings.add(setting)

    def merge(self, other: Mirrors) -> None:
        """Add the registries of another document."""
        for name, facts in other.facts.items():
            own = self.facts.setdefault(name, Facts())
            own.is_upstream = own.is_upstream or facts.is_upstream
            own.mirrors += facts.mirrors
            own.settings |= facts.settings
        self.notes += other.notes

    def _of(self, name: str) -> Facts:
        return self.facts.setdefault(host_of(name), Facts())

    @property
    def upstreams(self) -> list[str]:
        """The registries that can have a cache."""
        return [name for name, facts in self.facts.items() if self._is_kept(name, facts)]

    def config(self) -> tuple[dict[str, Any], list[str]]:
        """Return a RegistryConfig for the upstreams, and what a person should know about the rest."""
        caches = []
        for name in self.upstreams:
            login = {"secretReferenceName": secret_name(name)} if LOGIN in self.facts[name].settings else {}
            caches.append({"upstream": name, **login})
        content = {"apiVersion": NEWEST, "kind": "RegistryConfig", "caches": caches}
        return content, [*dict.fromkeys([*self._left_out(), *self._notes(), *self.notes])]

    def _is_kept(self, name: str, facts: Facts) -> bool:
        # A host that is no mirror and has a login is a registry, of which images are pulled.
        is_registry = facts.is_upstream or bool(facts.settings & {LOGIN, "token"})
        return is_registry and not self._is_mirror(name, facts) and self._reason(name, facts) is None

    def _is_mirror(self, name: str, facts: Facts) -> bool:
        """Return whether a host is a mirror of another one, and no registry that has a mirror itself."""
        return name in self._mirror_hosts() and all(host_of(mirror) == name for mirror in facts.mirrors)

    def _mirror_hosts(self) -> set[str]:
        """Return the hosts of mirrors of other registries than themselves."""
        return {
            host
            for name, facts in self.facts.items()
            for host in map(host_of, facts.mirrors)
            if host not in (name, DOCKER_HUB) and _HOST.fullmatch(host)
        }

    def _reason(self, name: str, facts: Facts) -> str | None:
        """Return why an entry becomes no cache, apart from being a mirror of another one."""
        if name in ALL_REGISTRIES:
            return "it stands for all registries, and a cache has one upstream"
        if name.partition(":")[0].endswith(OF_THE_CLUSTER):
            return "it is an address inside the cluster"
        if reason := unsupported_reason(name):
            return reason if reason.startswith("an ") else f"it {reason}"
        if not re.search("[.:]", name):
            return "the host of a registry has a dot or a port"
        if facts.mirrors and all(host_of(mirror) == name for mirror in facts.mirrors):
            return "its only mirror is itself; add a cache with the remoteURL that nodes reach it by if it needs one"
        return None

    def _left_out(self) -> Iterator[str]:
        mirrors = self._mirror_hosts()
        for name, facts in self.facts.items():
            # Anything else may be in the wrong place, and a password.
            shown = printable(name or "*") if _NAME.fullmatch(name or "*") else "an entry whose name is not a host"
            if self._is_mirror(name, facts) and (facts.is_upstream or facts.settings):
                settings = f", with its {' and '.join(sorted(facts.settings))}," if facts.settings else ""
                yield f"{shown}{settings} is left out, because it is a mirror of another registry"
            elif not self._is_kept(name, facts) and (facts.is_upstream or facts.settings):
                yield f"{shown} is left out: {self._reason(name, facts) or 'no image is pulled by this name'}"
        if any(name in ALL_REGISTRIES for name in self.facts):
            yield "registry-cache discover finds the registries that a cluster pulls from"
        if left := mirrors - {*self.upstreams}:
            subject = f"the mirrors {join_some(left)} are" if len(left) > 1 else f"the mirror {join_some(left)} is"
            yield (
                f"{subject} left out, because a cache fetches from the upstream itself; where the upstream can only be "
                "reached through a mirror, write that as remoteURL"
            )

    def _notes(self) -> Iterator[str]:
        for name in self.upstreams:
            settings = self.facts[name].settings
            if LOGIN in settings:
                secret = secret_name(name)
                yield (
                    f"{name}: the login is not copied; create a Secret {secret} with the keys username and password in "
                    "the release's namespace"
                )
            for setting in sorted(settings - {LOGIN}):
                yield f"{name}: {SETTINGS[setting]}"


def host_of(text: str) -> str:
    """Return the host, and the port, of a registry's name, an image's name or a URL; Docker Hub has one name."""
    rest = text.strip().rpartition("://")[2].lstrip("/")
    host = re.split("[/?#]", rest.rpartition("@")[2])[0].lower()
    return DOCKER_HUB if host in NAMES_OF_DOCKER_HUB else host


def secret_name(upstream: str) -> str:
    """Return a name for the Secret of an upstream."""
    return re.sub("[.:]", "-", upstream)
