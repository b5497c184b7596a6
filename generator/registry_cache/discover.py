"""Finds the registries that a cluster's images come from, and writes a RegistryConfig for them.

It lists pods and nodes and reads no Secret.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import re
import ssl
import textwrap
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from kubernetes import client
from kubernetes.config import ConfigException, kube_config
from pydantic import TypeAdapter, ValidationError
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError, ProxyError, SSLError
from urllib3.exceptions import TimeoutError as NoAnswerInTime
from urllib3.util import parse_url

from registry_cache import model
from registry_cache.values_file import WIDTH, dump

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

TIMEOUT_SECONDS = 30
PAGE = 500
SHOWN = 5
DOCKER_HUB = "docker.io"

# distribution/reference v0.6.0, regexp.go, by which the kubelet and containerd read references. A digest is what
# opencontainers/go-digest takes.
_DOMAIN_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"({_DOMAIN_LABEL}(\.{_DOMAIN_LABEL})*|\[[a-fA-F0-9:]+\])(:[0-9]+)?"
_WORD = "[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_PATH = f"{_WORD}(/{_WORD})*"
_TAG = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = "(sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128})"
_REFERENCE = re.compile(f"(?P<name>({_DOMAIN}/)?{_PATH})(:(?P<tag>{_TAG}))?(@(?P<digest>{_DIGEST}))?")
_NAMELESS = re.compile(f"[a-f0-9]{{64}}|{_DIGEST}")
_LONGEST_PATH = 255

# cloud-provider-aws, cmd/ecr-credential-provider/main.go, and docker-credential-ecr-login, which knows amazonaws.eu.
_ECR = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(-fips)?\.[a-zA-Z0-9][a-zA-Z0-9_-]*\."
    r"(amazonaws\.(com(\.cn)?|eu)|on\.(aws|amazonwebservices\.com\.cn)"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
_UPSTREAM: TypeAdapter[str] = TypeAdapter(model.Upstream)
_KUBE_CONFIG: Any = kube_config  # it has no types


class CannotDiscover(Exception):
    """The cluster cannot be asked; the message says why, and holds nothing of the kubeconfig's credentials."""


@dataclass(frozen=True)
class Reference:
    """An image's full name as containerd knows it: `docker.io/library/nginx:latest`, and its registry."""

    registry: str
    text: str


@dataclass
class Registry:
    """What was found of one registry.

    `sizes` has the bytes of each image that a node reports, by digest, or by reference where no digest is known, and
    by platform, since a cache keeps each platform of an image by itself. The rest are references and, as
    `namespace/name`, the pull secrets of the pods that pull from it.

    A size is that of the compressed image, manifest, config and layers, as the registry sends them and a cache keeps
    them: the kubelet passes on what CRI's ListImages says, which in containerd is the sum of the sizes in the manifest
    (internal/cri/store/image/image.go, `Size is the compressed size of the image`: CalculateImageUsage with
    WithManifestUsage and without snapshots). Layers that images share are counted for each of them, so that the sum
    is rather too large.
    """

    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    on_nodes: set[str] = field(default_factory=set)
    in_pods: set[str] = field(default_factory=set)
    pull_secrets: set[str] = field(default_factory=set)

    @property
    def unknown(self) -> int:
        """How many images of pods no node reports.

        A node reports its largest images, 50 unless the kubelet's nodeStatusMaxImages says otherwise, with at most
        five names each (pkg/kubelet/nodestatus/setters.go; pkg/kubelet/images/image_gc_manager.go sorts them).
        """
        return len(self.in_pods - self.on_nodes)

    @property
    def images(self) -> int:
        """How many images there are, those of unknown size included."""
        return len(self.sizes) + self.unknown


@dataclass
class Discovery:
    """What was found in a cluster.

    `nameless` is the number of images that have no name that leads to a registry, and `unreadable` holds the
    references of pods that containerd cannot read either.
    """

    registries: dict[str, Registry] = field(default_factory=lambda: defaultdict(Registry))
    nameless: int = 0
    unreadable: set[str] = field(default_factory=set)
    pods: int = 0
    nodes: int = 0

    @property
    def upstreams(self) -> list[str]:
        """The registries that can have a cache, by name.

        Those that only nodes have images of are among them: a node pulls its own images too, as that of the pause
        container, and jobs that are over will come again.
        """
        return sorted(name for name in self.registries if why_not(name) is None)

    @property
    def left_out(self) -> dict[str, str]:
        """The registries that cannot have a cache, by name, and why."""
        return {name: reason for name in sorted(self.registries) if (reason := why_not(name))}


def connect(kubeconfig: Path | None, context: str | None) -> client.CoreV1Api:
    """The API of the cluster in a kubeconfig, as kubectl finds it; nothing is asked of the cluster yet.

    Raises:
        CannotDiscover: there is no kubeconfig, or none that can be used, or no such context.
    """
    where = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG") or "~/.kube/config"
    configuration = client.Configuration()
    configuration.retries = 0
    try:
        _load(where, context, configuration)
        url = parse_url(configuration.host)
    except LocationParseError:
        url = None
    except (ConfigException, OSError, yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        message = f"the kubeconfig {where} cannot be used: {_flaw(error)}"
        # Without its cause, whose text can hold the entry of a user.
        raise CannotDiscover(message) from None
    if url is None or url.scheme not in ("http", "https") or not url.host:
        message = f"the kubeconfig {where} names a server that is no URL of http or https"
        raise CannotDiscover(message)
    return client.CoreV1Api(client.ApiClient(configuration))


def discover(api: client.CoreV1Api) -> Discovery:
    """Read all pods and nodes of a cluster.

    Raises:
        CannotDiscover: the server cannot be reached, or does not let us.
    """
    found = Discovery()
    for pod in _objects(api, api.list_pod_for_all_namespaces, "pods"):
        found.pods += 1
        _add_pod(found, pod)
    for node in _objects(api, api.list_node, "nodes"):
        found.nodes += 1
        _add_node(found, node)
    return found


def parse(image: str) -> Reference | None:
    """The image that containerd takes a text for; none where it is only a digest or an ID, or no reference at all.

    As ParseDockerRef in distribution/reference v0.6.0, normalize.go.
    """
    first, slash, rest = image.partition("/")
    is_registry = slash and (first == "localhost" or re.search("[.:]", first) or first != first.lower())
    registry, rest = (first, rest) if is_registry else (DOCKER_HUB, image)
    if registry == "index.docker.io":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    match = _REFERENCE.fullmatch(f"{registry}/{rest}")
    if _NAMELESS.fullmatch(image) or not match or len(match["name"]) - len(registry) - 1 > _LONGEST_PATH:
        return None
    version = f"@{match['digest']}" if match["digest"] else f":{match['tag'] or 'latest'}"
    return Reference(registry, f"{match['name']}{version}")


def why_not(registry: str) -> str | None:
    """Why a registry cannot have a cache; none where it can."""
    if _is_on_the_node(registry):
        return "is on the node itself, where no cache reaches it"
    if _ECR.fullmatch(registry):
        return "its credentials are tokens that end after 12 hours, and a cache of this chart cannot renew them"
    try:
        _UPSTREAM.validate_python(registry)
    except ValidationError:
        return f"an upstream of a RegistryConfig is {_UPSTREAM.json_schema()['title']}"
    return None


def suggested_gi(size: int) -> int:
    """The size of a volume in Gi for images of `size` bytes.

    Twice as much, since the next versions come before the last ones expire, rounded up to 10, 20, 50, 100, 200 and so
    on. Not less than the chart's default of 10: a volume that fills up does harm, and is made larger by hand.
    """
    steps: Iterator[int] = (step * 10**power for power in itertools.count(1) for step in (1, 2, 5))
    return next(step for step in steps if step * 2**30 >= 2 * size)


def document_text(discovery: Discovery, has: Collection[str] = ()) -> str:
    """A RegistryConfig for what was found, sorted by name, without the upstreams that are in `has`.

    Comments say what was left out and why. Where nothing lacks, or nothing can have a cache, there are only comments.
    """
    lacking = [name for name in discovery.upstreams if name not in has]
    lines = [*_header(discovery, lacking, has), *_left_out(discovery, has)]
    if lacking:
        lines += dump({key: model.Values.model_fields[key].default for key in ("apiVersion", "kind")}).splitlines()
        lines.append("caches:")
        for name in lacking:
            lines += textwrap.indent("\n".join(_cache(name, discovery.registries[name])), "  ").splitlines()
    return "\n".join(lines) + "\n"


def _header(discovery: Discovery, lacking: list[str], has: Collection[str]) -> Iterator[str]:
    read = f"{_count(discovery.pods, 'pod')} and {_count(discovery.nodes, 'node')}"
    if not lacking:
        there = [name for name in discovery.upstreams if name in has]
        yield from _comment(
            f"Nothing lacks: of the registries in {read}, these have a cache already: {', '.join(there)}."
            if there
            else f"In {read} there is no image of a registry that can have a cache."
        )
        return
    what = "What the values lack of" if has else "A RegistryConfig for"
    yield from _comment(f"{what} the registries that this cluster's images come from, as found in {read}.")
    yield from _comment(
        "A volume's size is twice that of the images on the nodes, compressed, as a cache keeps them, and rounded up."
    )
    if any(discovery.registries[name].unknown for name in lacking):
        yield from _comment(
            "A size is unknown where no node reports it: a node reports its 50 largest images (nodeStatusMaxImages "
            "of the kubelet)."
        )


def _left_out(discovery: Discovery, has: Collection[str]) -> Iterator[str]:
    reasons = [
        f"{_safe(name)} ({_count(discovery.registries[name].images, 'image')}): {reason}"
        for name, reason in discovery.left_out.items()
        if name not in has
    ]
    if discovery.nameless:
        reasons.append(
            f"{_count(discovery.nameless, 'image')} with no name, only a digest or an ID: no registry is known; "
            "an image that a pod names with registry and digest is cached like all others"
        )
    if discovery.unreadable:
        reasons.append(f"what is no reference to an image: {_some(discovery.unreadable)}")
    if reasons:
        yield "# Left out:"
    for reason in reasons:
        yield from _comment(reason, "# - ", "#   ")


def _cache(name: str, registry: Registry) -> Iterator[str]:
    """The entry of `caches` for one registry."""
    if not registry.in_pods:
        yield from _comment("Only on nodes; no pod uses an image of it now.")
    if registry.pull_secrets:
        yield from _comment(
            f"Pods with images of it have pull secrets: {_some(registry.pull_secrets)}. Where they are for it, its "
            "cache needs a Secret with the keys username and password in the release's namespace, named by "
            "secretReferenceName. Without it, its private images are not cached, and are pulled directly as now."
        )
    yield f"- {dump({'upstream': name}).strip()}"
    if registry.sizes:
        size = sum(registry.sizes.values())
        gi = suggested_gi(size)
        smallest = ", and not less than the default" if gi == suggested_gi(0) else ""
        unknown = f"; the size of {registry.unknown} more is unknown" if registry.unknown else ""
        yield "  volume:"
        yield (
            f"    size: {gi}Gi # {_count(len(registry.sizes), 'image')}, {_bytes(size)} on the nodes, "
            f"doubled{smallest}{unknown}"
        )
    else:
        yield f"  # {_count(registry.unknown, 'image')} of unknown size; a volume has {suggested_gi(0)}Gi by default."
    if registry.pull_secrets:
        yield f"  # {dump({'secretReferenceName': _secret_name(name)}).strip()}"


def _secret_name(upstream: str) -> str:
    return re.sub("[.:]", "-", upstream)


def _comment(text: str, first: str = "# ", following: str = "# ") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _some(texts: Collection[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(map(_safe, sorted(texts)[:SHOWN])) + more


def _safe(text: str) -> str:
    """A text that others wrote, so that it can neither end a comment nor be unprintable or long."""
    limit = 100
    plain = text if re.fullmatch("[!-~]+", text) else ascii(text[:limit])
    return plain if len(plain) <= limit else f"{plain[:limit]}..."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _bytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"  # noqa: PLR2004 - a GB


def _is_on_the_node(registry: str) -> bool:
    """Whether a registry's host is the machine that asks for it, with `registry` as `host`, `host:port` or `[v6]`."""
    host = re.sub(r":[0-9]+$|[\[\]]", "", registry).lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _add_pod(found: Discovery, pod: dict[str, Any]) -> None:
    """Note where a pod's images come from.

    The pull secrets of its service account are among its own: admission put them there when it was created
    (plugin/pkg/admission/serviceaccount/admission.go).
    """
    spec = pod["spec"]
    namespace = pod["metadata"]["namespace"]
    secrets = {f"{namespace}/{secret.get('name', '')}" for secret in spec.get("imagePullSecrets") or []}
    for image in _images(spec):
        reference = parse(image)
        if reference:
            registry = found.registries[reference.registry]
            registry.in_pods.add(reference.text)
            registry.pull_secrets |= secrets
        elif _NAMELESS.fullmatch(image):
            found.nameless += 1
        else:
            found.unreadable.add(image)


def _images(spec: dict[str, Any]) -> Iterator[str]:
    """All images that a pod pulls: those of its containers and those that it mounts."""
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(kind) or []:
            if container.get("image"):  # a controller may set it later
                yield container["image"]
    for volume in spec.get("volumes") or []:
        if reference := volume.get("image", {}).get("reference"):
            yield reference


def _add_node(found: Discovery, node: dict[str, Any]) -> None:
    """Note the images that a node reports; one image can have names in several registries."""
    status = node.get("status") or {}
    about = status.get("nodeInfo") or {}
    platform = f"{about.get('operatingSystem')}/{about.get('architecture')}"
    for image in status.get("images") or []:
        references: dict[str, list[str]] = defaultdict(list)
        for reference in filter(None, map(parse, image.get("names") or [])):
            references[reference.registry].append(reference.text)
        found.nameless += not references
        for name, texts in references.items():
            registry = found.registries[name]
            registry.on_nodes.update(texts)
            # One digest in two repositories is one image: a cache keeps a blob once.
            digests = [text.partition("@")[2] for text in texts if "@" in text]
            key = (min(digests or texts), platform)
            registry.sizes[key] = max(registry.sizes.get(key, 0), image.get("sizeBytes", 0))


def _load(where: str, context: str | None, configuration: client.Configuration) -> None:
    """Read a kubeconfig, or several as in KUBECONFIG, into the client's configuration.

    Raises:
        CannotDiscover: with what a person can mend, as far as it is known here.
    """
    merged = _KUBE_CONFIG.KubeConfigMerger(where).config
    if merged is None:
        message = f"there is no kubeconfig at {where}; name one with --kubeconfig or KUBECONFIG"
        raise CannotDiscover(message)
    contexts = [entry.value["name"] for entry in merged.value["contexts"]]
    chosen = context or merged.value.get("current-context")
    if not chosen:
        message = f"the kubeconfig {where} has no current context; name one with --context"
        raise CannotDiscover(message)
    if chosen not in contexts:
        there = f"there is {_some(contexts)}" if contexts else "there is none"
        message = f"the kubeconfig {where} has no context {_safe(chosen)}; {there}"
        raise CannotDiscover(message)
    loader = _KUBE_CONFIG.KubeConfigLoader(merged, active_context=chosen, config_base_path=None)
    loader.load_and_set(configuration)
    user = loader.current_context["context"].get("user")
    for entry in merged.value["users"]:
        # The loader only logs what went wrong with it, and the request would go out without credentials.
        if entry.value["name"] == user and "exec" in entry.value["user"] and not _logs_in(configuration):
            message = f"the command with which the kubeconfig {where} logs in gave no credentials; kubectl says more"
            raise CannotDiscover(message)


def _logs_in(configuration: client.Configuration) -> bool:
    return bool(configuration.api_key or configuration.cert_file)


def _flaw(error: Exception) -> str:
    """What is wrong with a kubeconfig, in words that hold nothing of its content."""
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"it is not YAML, at line {error.problem_mark.line + 1}"
    if isinstance(error, ConfigException) and str(error).startswith("File does not exist: "):
        return str(error)
    return "something in it is missing or is not what it should be; kubectl says more"


def _objects(api: client.CoreV1Api, read: Callable[..., Any], what: str) -> Iterator[dict[str, Any]]:
    """All objects of a kind, page by page; `read` is the client's function and `what` the resource's name."""
    token: str | None = None
    while True:
        page = _page(api, read, what, token)
        objects: Iterable[dict[str, Any]] = page["items"] or []
        yield from objects
        token = page.get("metadata", {}).get("continue")
        if not token:
            return


def _page(api: client.CoreV1Api, read: Callable[..., Any], what: str, token: str | None) -> dict[str, Any]:
    """One page as plain JSON: the client's own objects take some ms each, and refuse an image without a name."""
    try:
        raw = read(limit=PAGE, _continue=token, _preload_content=False, _request_timeout=TIMEOUT_SECONDS).data
    except client.ApiException as error:
        raise CannotDiscover(_refusal(error.status, what)) from error
    except HTTPError as error:
        url = parse_url(api.api_client.configuration.host)
        message = f"the server {url.netloc}: {_break(error)}"
        raise CannotDiscover(message) from error
    except ValueError:
        message = "the kubeconfig's credentials cannot be sent: is there a line break or a space too many in the token?"
        # Without its cause, whose text holds the token.
        raise CannotDiscover(message) from None
    try:
        page = json.loads(raw)
    except ValueError:
        page = None
    if not isinstance(page, dict) or "items" not in page:
        message = f"the server answered without a list of {what}: is it a Kubernetes API server?"
        raise CannotDiscover(message)
    return page


def _refusal(status: int | None, what: str) -> str:
    """What a status of the server means for a person; what it said is not repeated, since anything may stand there."""
    if status == 401:  # noqa: PLR2004 - HTTP's
        return "the server does not take the kubeconfig's credentials (401): have they expired?"
    if status == 403:  # noqa: PLR2004 - HTTP's
        everywhere = " in all namespaces" if what == "pods" else ""
        return f"the kubeconfig's user may not list {what} (403): it needs the permission to list {what}{everywhere}"
    if status == 410:  # noqa: PLR2004 - HTTP's
        return f"the list of {what} expired while it was read (410): try again"
    return f"the server answered the request for {what} with status {status}"


def _break(error: HTTPError) -> str:
    """Why there was no answer."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, NewConnectionError):
        return f"cannot be reached: {getattr(reason.__cause__, 'strerror', None) or type(reason).__name__}"
    if isinstance(reason, NoAnswerInTime):
        return f"does not answer within {TIMEOUT_SECONDS} s"
    if isinstance(reason, ProxyError):
        return "the proxy on the way to it does not answer as a proxy"
    cause = reason.args[0] if isinstance(reason, SSLError) and reason.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not the kubeconfig's: {cause.verify_message}"
    if isinstance(reason, SSLError):
        return f"no TLS with it: {getattr(cause, 'reason', None) or 'a certificate or key of the kubeconfig is no PEM'}"
    return f"the connection broke off ({type(reason).__name__})"
