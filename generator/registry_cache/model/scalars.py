"""The types of single values: hosts, URLs, quantities, durations, names, labels.

The patterns are anchored and use only what RE2 has, because Helm checks the schema with Go's regular expressions. None
can match a text in two ways, because Python would try all of them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

_LABEL = "[a-z0-9]+(-+[a-z0-9]+)*"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = f"{_SUBDOMAIN}(:{_PORT})?"
# As the distribution spec writes it.
_REPOSITORY_PART = "[a-z0-9]+(([.]|__?|-+)[a-z0-9]+)*"
_QUANTITY_UNIT = "([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?"
_POSITIVE_NUMBER = "(0*[1-9][0-9]*([.][0-9]*)?|0*[.]0*[1-9][0-9]*)"
# As many digits before the point as keep the sum of all units within the 292 years that Go can hold.
_DURATION_DIGITS = {"h": 6, "m": 7, "s": 9, "ms": 12, "(us|µs|μs)": 15, "ns": 18}
_DURATION = "|".join(f"([0-9]{{1,{n}}}([.][0-9]*)?|[.][0-9]+){unit}" for unit, n in _DURATION_DIGITS.items())
_ZERO_DURATION = "(0+([.]0*)?|[.]0+)(ns|us|µs|μs|ms|s|m|h)"
_POSITIVE_DURATION = "|".join(
    f"(0*[1-9][0-9]{{0,{n - 1}}}([.][0-9]*)?|0*[.]0*[1-9][0-9]*){unit}" for unit, n in _DURATION_DIGITS.items()
)
# apimachinery/pkg/util/validation, IsQualifiedName and IsValidLabelValue.
_LABEL_VALUE = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = f"({_SUBDOMAIN}/)?{_LABEL_VALUE}"
# As chart/files/programs/upstream/proxies.py reads them.
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(\.{_BYTE}){{3}}"
_IPV6 = f"([0-9a-fA-F]{{0,4}}:){{2,7}}([0-9a-fA-F]{{0,4}}|{_IPV4})"
_ANY_CASE = "[A-Za-z0-9]+(-+[A-Za-z0-9]+)*"
_NO_PROXY = "|".join(
    (
        "[*]",
        rf"([*]?\.)?{_ANY_CASE}(\.{_ANY_CASE})*(:{_PORT})?",
        rf"{_IPV6}|\[{_IPV6}\]:{_PORT}",
        f"{_IPV4}/(3[0-2]|[12]?[0-9])",
        f"{_IPV6}/(12[0-8]|1[01][0-9]|[1-9]?[0-9])",
    )
)
# A part of a path below the root; Kubernetes takes no colon and no `..`.
_PART = r"/([^/:.\s]|[.][^/:.\s])[^/:\s]*"


def _limit_host(pattern: str) -> tuple[AfterValidator, dict[str, Any]]:
    """Return a check that limits the length of the host alone, and the same for the schema."""
    title = "a host of at most 253 characters"

    def check(value: str) -> str:
        if not re.search(pattern, value):
            raise ValueError(title)
        return value

    return AfterValidator(check), {"allOf": [{"pattern": pattern, "title": title}]}


_CHECK_UPSTREAM, _UPSTREAM_SCHEMA = _limit_host("^[^:]{0,253}(:|$)")
# A text that is not a URL at all passes here; the other pattern refuses it.
_CHECK_URL, _URL_SCHEMA = _limit_host("^[^/]*(//[^:/]{0,253}([:/]|$)|/[^/]|/$|$)")
# At most 255 characters in all: containerd has a directory of this name.
Upstream = Annotated[
    str,
    Field(
        title="the host of a registry in lower case, optionally with a port",
        pattern=f"^{_HOST}$",
        max_length=255,
        examples=["docker.io", "registry.example.com:5000"],
        json_schema_extra=_UPSTREAM_SCHEMA,
    ),
    _CHECK_UPSTREAM,
]
URL = Annotated[
    str,
    Field(
        title="a URL of a scheme, a host and optionally a port",
        pattern=f"^[hH][tT][tT][pP][sS]?://{_HOST}/?$",
        examples=["https://registry.example.com"],
        json_schema_extra=_URL_SCHEMA,
    ),
    _CHECK_URL,
]
# apimachinery/pkg/api/resource/quantity.go; greater than zero.
Quantity = Annotated[
    Annotated[str, Field(pattern=f"^[+]?{_POSITIVE_NUMBER}{_QUANTITY_UNIT}$")] | Annotated[int, Field(ge=1)],
    Field(title="a quantity of bytes greater than zero", examples=["10Gi"]),
]
# As Quantity, but zero and fractions are amounts of a resource too.
AMOUNT_TITLE = "an amount of a resource"
Amount = Annotated[
    Annotated[str, Field(pattern=f"^[+]?([0-9]+([.][0-9]*)?|[.][0-9]+){_QUANTITY_UNIT}$")]
    | Annotated[float, Field(ge=0)],
    Field(title=AMOUNT_TITLE, examples=["100m"]),
]
# time.ParseDuration in Go; not negative.
Duration = Annotated[
    str,
    Field(
        title="a duration in hours, minutes and seconds, zero or longer",
        pattern=f"^([+]?(0|({_DURATION})+)|-(0|({_ZERO_DURATION})+))$",
    ),
]
PositiveDuration = Annotated[
    str,
    Field(
        title="a duration in hours, minutes and seconds, longer than zero",
        pattern=f"^[+]?({_ZERO_DURATION})*({_POSITIVE_DURATION})({_DURATION})*$",
    ),
]
# Prometheus knows units that Go does not, and no fractions (prometheus/common, model/time.go).
PrometheusDuration = Annotated[
    str,
    Field(title="a whole number of ms, s, m or h, longer than zero", pattern="^0*[1-9][0-9]*(ms|s|m|h)$"),
]
OptionalPrometheusDuration = Annotated[
    str,
    Field(title="a whole number of ms, s, m or h, longer than zero, or empty", pattern="^(0*[1-9][0-9]*(ms|s|m|h))?$"),
]
Subdomain = Annotated[
    str,
    Field(title="the name of a Kubernetes object", pattern=f"^{_SUBDOMAIN}$", max_length=253, examples=["fast"]),
]
OptionalSubdomain = Annotated[
    str,
    Field(title="the name of a Kubernetes object, or empty", pattern=f"^({_SUBDOMAIN})?$", max_length=253),
]
Kind = Annotated[
    str, Field(title="a kind of Kubernetes objects", pattern="^[A-Z][A-Za-z0-9]{0,62}$", examples=["ClusterIssuer"])
]
Namespace = Annotated[
    str,
    Field(title="the name of a namespace, or empty", pattern=f"^({_LABEL})?$", max_length=63, examples=["monitoring"]),
]
PullSecret = Annotated[
    Subdomain | Annotated[dict[Literal["name"], Subdomain], Field(min_length=1)],
    WithJsonSchema(
        {
            "type": ["string", "object"],
            "title": "the name of a Secret, or a mapping with it under the key name",
            "pattern": f"^{_SUBDOMAIN}$",
            "maxLength": 253,
            "properties": {
                "name": {
                    "type": "string",
                    "title": "the name of a Kubernetes object",
                    "description": "The name of a Secret.",
                    "pattern": f"^{_SUBDOMAIN}$",
                    "maxLength": 253,
                    "examples": ["registry-login"],
                }
            },
            "required": ["name"],
            "additionalProperties": False,
        }
    ),
]
PullSecrets = Annotated[list[PullSecret], Field(examples=[["registry-login"], [{"name": "registry-login"}]])]
ServiceNameSuffix = Annotated[
    str, Field(title="a DNS label of at most 54 characters", pattern=f"^{_LABEL}$", max_length=54)
]
Folder = Annotated[str, Field(title="an absolute path, or empty", pattern=f"^(({_PART})+/?)?$")]
File = Annotated[
    str, Field(title="the absolute path of a file in a directory, or empty", pattern=f"^({_PART}({_PART})+)?$")
]
UnitDirectory = Annotated[str, Field(title="an absolute path", pattern=f"^({_PART})+$")]
UnitName = Annotated[
    str, Field(title="the name of a service such as containerd.service", pattern=r"^[A-Za-z0-9:_.@-]+\.service$")
]
Port = Annotated[int, Field(title="a port from 1 to 65535", ge=1, le=65535)]
Count = Annotated[int, Field(title="a whole number from 0", ge=0)]
Replicas = Annotated[int, Field(title="a whole number from 1 to 16", ge=1, le=16)]
PositiveCount = Annotated[int, Field(title="a whole number from 1", ge=1)]
CountOrPercent = Annotated[
    Annotated[str, Field(pattern="^(100|[1-9]?[0-9])%$")] | Annotated[int, Field(ge=0)],
    Field(title="a number or a percentage of pods", examples=[1, "50%"]),
]
IPAddress = Annotated[str, Field(title="an IP address", pattern=f"^({_IPV4}|{_IPV6})$", examples=["10.96.0.100"])]
NetworkAddress = Annotated[
    str,
    Field(
        title="a network: an IP address, a slash, and the length of its prefix",
        pattern=f"^({_IPV4}/(3[0-2]|[12]?[0-9])|{_IPV6}/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))$",
        examples=["10.0.0.0/16"],
    ),
]
OptionalIPAddress = Annotated[str, Field(title="an IP address", pattern=f"^(|{_IPV4}|{_IPV6})$", examples=["::"])]
Percent = Annotated[int, Field(title="a percentage from 1 to 100", ge=1, le=100)]
ImageRegistry = Annotated[
    str,
    Field(
        title="a registry, optionally with a path, or empty",
        pattern=f"^({_HOST}(/[a-z0-9._-]+)*/?)?$",
        examples=["registry.example.com/mirror"],
    ),
]
Digest = Annotated[
    str,
    Field(
        title="a digest, or empty",
        pattern="^(sha256:[a-f0-9]{64})?$",
        examples=["sha256:1be55279f18a2fe1a74edf2664cac61c1bea305b7b4642dab412e7affdcb3e33"],
    ),
]
Name = Annotated[
    str,
    Field(
        title="a name of lower case letters, digits and dashes, or empty",
        pattern=f"^({_SUBDOMAIN})?$",
        max_length=63,
        examples=["caches"],
    ),
]
Version = Annotated[str, Field(title="a version, or empty", pattern="^(v?[0-9]+[.][0-9]+[-+.~0-9A-Za-z]*)?$")]
Command = Annotated[list[Annotated[str, Field(title="a word of a command", min_length=1)]], Field(min_length=1)]
Program = Annotated[str, Field(title="the name or path of a program", min_length=1)]
RepositoryPattern = Annotated[
    str,
    Field(
        title="a repository such as team/app, or team/* for all below team",
        pattern=f"^{_REPOSITORY_PART}(/{_REPOSITORY_PART})*(/[*])?$",
        max_length=255,
        examples=["team/*"],
    ),
]
Host = Annotated[
    str,
    Field(title="a host", pattern=f"^({_SUBDOMAIN}|{_IPV6})$", max_length=253, examples=["auth.example.com"]),
]
NoProxy = Annotated[
    str,
    Field(
        title="a host, a domain or an address, with or without a port, or a network, or *",
        pattern=f"^({_NO_PROXY})$",
        examples=[".example.com"],
    ),
]


KEY_TITLE = (
    "a key of Kubernetes: at most 63 letters, digits, dashes, underscores and dots, optionally after a domain and a "
    "slash"
)
Key = Annotated[str, Field(pattern=f"^{_KEY}$")]
TaintKey = Annotated[str, Field(title="the key of a taint", pattern=f"^{_KEY}$", examples=["dedicated"])]
LABEL_VALUE_TITLE = "the value of a label: at most 63 letters, digits, dashes, underscores and dots, or empty"
LabelValue = Annotated[str, Field(title=LABEL_VALUE_TITLE, pattern=f"^({_LABEL_VALUE})?$", examples=["platform"])]


def _title_values(title: str) -> Any:  # noqa: ANN401 - pydantic's
    """Give the values of a mapping with such keys a title again, which pydantic takes away."""

    def complete(schema: dict[str, Any]) -> None:
        for part in schema["patternProperties"].values():
            part["title"] = title

    return Field(json_schema_extra=complete)


Strings = dict[str, str]
Objects = list[dict[str, Any]]
Labels = Annotated[dict[Key, LabelValue], _title_values(LABEL_VALUE_TITLE)]
Annotations = dict[Key, str]
Resources = dict[Literal["requests", "limits"], Annotated[dict[Key, Amount], _title_values(AMOUNT_TITLE)]]
# Parts of Kubernetes' own API, which are passed on as they are.
Passthrough = dict[str, Any]
Affinity = dict[Literal["nodeAffinity", "podAffinity", "podAntiAffinity"], dict[str, Any]]
