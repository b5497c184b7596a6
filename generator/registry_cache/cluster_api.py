"""Reads objects from a cluster's API. Errors contain nothing of the kubeconfig's credentials."""

from __future__ import annotations

import json
import os
import ssl
from typing import TYPE_CHECKING, Any

import yaml
from kubernetes import client
from kubernetes.config import ConfigException, kube_config
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError, ProxyError, SSLError
from urllib3.exceptions import TimeoutError as RequestTimeout
from urllib3.util import parse_url

from registry_cache.untrusted_text import join_some, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

TIMEOUT_SECONDS = 30
PAGE_OBJECTS = 500
_KUBE_CONFIG: Any = kube_config  # it has no types


class CannotDiscover(Exception):
    """The cluster cannot be read; the message says why."""


def connect(kubeconfig: Path | None, context: str | None) -> client.CoreV1Api:
    """Return the API of the cluster in a kubeconfig, which is found as kubectl finds it; no request is made yet.

    Raises:
        CannotDiscover: The kubeconfig or the context does not exist, or cannot be used.
    """
    location = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG") or "~/.kube/config"
    configuration = client.Configuration()
    configuration.retries = 0
    try:
        _load(location, context, configuration)
        url = parse_url(configuration.host)
    except LocationParseError:
        url = None
    except (ConfigException, OSError, yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        message = f"the kubeconfig {location} cannot be used: {_describe_flaw(error)}"
        # Without its cause, whose text can contain the entry of a user.
        raise CannotDiscover(message) from None
    if url is None or url.scheme not in ("http", "https") or not url.host:
        message = f"the server in the kubeconfig {location} is not an http or https URL"
        raise CannotDiscover(message)
    return client.CoreV1Api(client.ApiClient(configuration))


def list_objects(api: client.CoreV1Api, read: Callable[..., Any], resource: str) -> Iterator[dict[str, Any]]:
    """Yield all objects of a kind, page by page; `read` is the client's function, `resource` the name for messages.

    Raises:
        CannotDiscover: The server cannot be reached, or refuses.
    """
    token: str | None = None
    while True:
        page = _read_page(api, read, resource, token)
        objects: Iterable[dict[str, Any]] = page["items"] or []
        yield from objects
        token = page.get("metadata", {}).get("continue")
        if not token:
            return


def _load(location: str, context: str | None, configuration: client.Configuration) -> None:
    """Read a kubeconfig, or several as in KUBECONFIG, into the client's configuration.

    Raises:
        CannotDiscover: The message says what to change, as far as that is known here.
    """
    merged = _KUBE_CONFIG.KubeConfigMerger(location).config
    if merged is None:
        message = f"there is no kubeconfig at {location}; name one with --kubeconfig or KUBECONFIG"
        raise CannotDiscover(message)
    contexts = [entry.value["name"] for entry in merged.value["contexts"]]
    chosen = context or merged.value.get("current-context")
    if not chosen:
        message = f"the kubeconfig {location} has no current context; name one with --context"
        raise CannotDiscover(message)
    if chosen not in contexts:
        known = f"its contexts are {join_some(contexts)}" if contexts else "it has no contexts"
        message = f"the kubeconfig {location} has no context {printable(chosen)}; {known}"
        raise CannotDiscover(message)
    loader = _KUBE_CONFIG.KubeConfigLoader(merged, active_context=chosen, config_base_path=None)
    loader.load_and_set(configuration)
    user = loader.current_context["context"].get("user")
    for entry in merged.value["users"]:
        # The loader only logs that the command failed, and the request would go out without credentials.
        is_current = entry.value["name"] == user
        if is_current and "exec" in entry.value["user"] and not _has_credentials(configuration):
            message = f"the login command of the kubeconfig {location} returned no credentials; kubectl shows its error"
            raise CannotDiscover(message)


def _has_credentials(configuration: client.Configuration) -> bool:
    return bool(configuration.api_key or configuration.cert_file)


def _describe_flaw(error: Exception) -> str:
    """Return what is wrong with a kubeconfig, in words that contain nothing of its content."""
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"it is not YAML, at line {error.problem_mark.line + 1}"
    if isinstance(error, ConfigException) and str(error).startswith("File does not exist: "):
        return str(error)
    return "a part of it is missing or has the wrong type; kubectl shows more"


def _read_page(api: client.CoreV1Api, read: Callable[..., Any], resource: str, token: str | None) -> dict[str, Any]:
    """Return one page as plain JSON: the client's own objects take some ms each, and refuse an image without a name."""
    try:
        raw = read(limit=PAGE_OBJECTS, _continue=token, _preload_content=False, _request_timeout=TIMEOUT_SECONDS).data
    except client.ApiException as error:
        raise CannotDiscover(_describe_status(error.status, resource)) from error
    except HTTPError as error:
        url = parse_url(api.api_client.configuration.host)
        message = f"the server {url.netloc}: {_describe_network_error(error)}"
        raise CannotDiscover(message) from error
    except ValueError:
        message = "the kubeconfig's credentials cannot be sent: does the token contain a line break or a space?"
        # Without its cause, whose text contains the token.
        raise CannotDiscover(message) from None
    try:
        page = json.loads(raw)
    except ValueError:
        page = None
    if not isinstance(page, dict) or "items" not in page:
        message = f"the server answered without a list of {resource}: is it a Kubernetes API server?"
        raise CannotDiscover(message)
    return page


def _describe_status(status: int | None, resource: str) -> str:
    """Return what a status means for a person; the server's own text is not repeated, because it can be anything."""
    if status == 401:  # noqa: PLR2004 - HTTP's
        return "the server refuses the kubeconfig's credentials (401): have they expired?"
    if status == 403:  # noqa: PLR2004 - HTTP's
        scope = " in all namespaces" if resource == "pods" else ""
        return f"the kubeconfig's user may not list {resource} (403): it needs the permission to list {resource}{scope}"
    if status == 410:  # noqa: PLR2004 - HTTP's
        return f"the list of {resource} expired while it was read (410): try again"
    return f"the server answered the request for {resource} with status {status}"


def _describe_network_error(error: HTTPError) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, NewConnectionError):
        return f"cannot be reached: {getattr(reason.__cause__, 'strerror', None) or type(reason).__name__}"
    if isinstance(reason, RequestTimeout):
        return f"does not answer within {TIMEOUT_SECONDS} s"
    if isinstance(reason, ProxyError):
        return "the proxy in front of it does not answer like a proxy"
    cause = reason.args[0] if isinstance(reason, SSLError) and reason.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the kubeconfig's certificate authority did not sign its certificate: {cause.verify_message}"
    if isinstance(reason, SSLError):
        flaw = getattr(cause, "reason", None) or "a certificate or key of the kubeconfig is not PEM"
        return f"TLS failed: {flaw}"
    return f"the connection broke off ({type(reason).__name__})"
