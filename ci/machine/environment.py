"""The environment of every program that is started here: the same whatever the user of this machine has set.

Variables are passed on by name, never all of them. Programs of the test bed get almost none. Programs that download and
build get those that say where packages come from and through which proxy, since only the user knows that.
"""

from __future__ import annotations

import os
import urllib.request
from typing import TYPE_CHECKING

from machine.paths import cache_folder, user_home

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Last, so that it adds to the user's PATH what a login shell leaves out.
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
BASIC = frozenset({"LOGNAME", "TERM", "TMPDIR", "USER", "XDG_CACHE_HOME"})
PROXIES = frozenset(
    name for upper in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY") for name in (upper, upper.lower())
)
# Where packages come from, how their servers are trusted, and where downloads are kept.
DOWNLOADS = PROXIES | {
    *("CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    *("APT_CONFIG", "NETRC", "XDG_CONFIG_HOME"),
    *("GOAUTH", "GOCACHE", "GOENV", "GOINSECURE", "GOMODCACHE", "GONOPROXY", "GONOSUMDB", "GOPATH", "GOPRIVATE"),
    *("GOPROXY", "GOSUMDB", "GOVCS"),
    *("PIP_CACHE_DIR", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_CONFIG_FILE", "PIP_DEFAULT_TIMEOUT"),
    *("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_KEYRING_PROVIDER", "PIP_NO_INDEX", "PIP_PROXY"),
    *("PIP_RETRIES", "PIP_TIMEOUT", "PIP_TRUSTED_HOST"),
    *("npm_config_cache", "npm_config_cafile", "npm_config_registry", "npm_config_userconfig"),
    *("NPM_CONFIG_CACHE", "NPM_CONFIG_CAFILE", "NPM_CONFIG_REGISTRY", "NPM_CONFIG_USERCONFIG"),
}
ENGINE_PREFIXES = ("CONTAINERD_", "DOCKER_", "KIND_")
# Variables that this process itself and the tools that run the tests read.
OWN_PREFIXES = ("COV_", "COVERAGE_", "HYPOTHESIS_", "PYTEST_", "PYTHON", "RUFF_", "MYPY_")
OWN = frozenset({"CI", "COLUMNS", "FORCE_COLOR", "HOME", "NO_COLOR", "PATH", "VIRTUAL_ENV"})


def for_programs(*folders: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a program of the test bed, which finds programs in `folders` first.

    It has no proxy, since every address that it may ask is on this machine, and an empty home folder, since the user's
    has settings for containers, helm, kubectl and others.
    """
    home = cache_folder() / "home"
    home.mkdir(parents=True, exist_ok=True)
    return {**_picked(BASIC), "HOME": str(home), "LC_ALL": "C.UTF-8", "PATH": search_path(folders), **variables}


def for_downloads(**variables: str) -> dict[str, str]:
    """Return the environment of a program that downloads or builds."""
    return {
        **_picked(BASIC | DOWNLOADS),
        "HOME": str(user_home()),
        "LC_ALL": "C.UTF-8",
        "PATH": search_path(),
        **variables,
    }


def for_container_engine() -> dict[str, str]:
    """Return the environment of docker and kind: the user says which engine, and kind must give its nodes no proxy."""
    engine = {name: value for name, value in os.environ.items() if name.startswith(ENGINE_PREFIXES)}
    return {**_picked(BASIC | {"XDG_RUNTIME_DIR"}), **engine, "HOME": str(user_home()), "PATH": search_path()}


def search_path(folders: Iterable[Path] = ()) -> str:
    """Return a PATH: `folders`, then the user's, then the system's, of which the user's may lack some."""
    users = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*map(str, folders), *filter(None, users), *SYSTEM_FOLDERS]))


def clean_process() -> None:
    """Make this process the same everywhere, for files that it writes and programs that inherit its environment.

    Other users read some of the files that are written, so the umask has to allow it. Downloads need the proxies, so
    they stay in the environment, but urllib does not use them.
    """
    os.umask(0o022)
    kept = BASIC | DOWNLOADS | OWN | {"XDG_RUNTIME_DIR"}
    for name in os.environ:
        if name not in kept and not name.startswith((*OWN_PREFIXES, *ENGINE_PREFIXES)):
            del os.environ[name]
    os.environ.update(HOME=str(user_home()), LC_ALL="C.UTF-8", PATH=search_path())
    urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))


def _picked(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
