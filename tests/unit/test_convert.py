"""`registry-cache convert`: any version of RegistryConfig, and a Shoot's, as v1alpha3; and what is wrong with them."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from registry_cache import cli
from registry_cache.convert import convert
from registry_cache.document import parse
from registry_cache.regenerate import REPOSITORY
from registry_cache.validation import find_problems

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

API = "registry.extensions.gardener.cloud"
EXAMPLES = REPOSITORY / "examples"
SHOOT: dict[str, Any] = yaml.safe_load((EXAMPLES / "shoot.yaml").read_text())
IN_SHOOT = "spec.extensions[1].providerConfig"


def config(version: str, **cache: object) -> dict[str, Any]:
    return {"apiVersion": f"{API}/{version}", "kind": "RegistryConfig", "caches": [{"upstream": "docker.io", **cache}]}


def problems(document: object) -> list[str]:
    return [f"{problem.path}: {problem.text}" for problem in find_problems(parse(json.dumps(document).encode()))]


def converted(document: object) -> dict[str, Any]:
    assert problems(document) == []
    return convert(parse(json.dumps(document).encode())).values


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(config("v1alpha1"), {}, id="v1alpha1-defaults"),
        pytest.param(config("v1alpha1", size="20Gi"), {"volume": {"size": "20Gi"}}, id="v1alpha1-size"),
        pytest.param(
            config("v1alpha1", garbageCollection={"enabled": True}), {"garbageCollection": {"ttl": "168h"}}, id="on"
        ),
        pytest.param(
            config("v1alpha2", garbageCollection={"enabled": False}), {"garbageCollection": {"ttl": "0s"}}, id="off"
        ),
        pytest.param(
            # Go reads a missing field as false
            config("v1alpha2", garbageCollection={}),
            {"garbageCollection": {"ttl": "0s"}},
            id="neither-on-nor-off",
        ),
        pytest.param(
            config("v1alpha2", volume={"size": "1Gi", "storageClassName": "fast"}, secretReferenceName="login"),
            {"volume": {"size": "1Gi", "storageClassName": "fast"}, "secretReferenceName": "login"},
            id="v1alpha2-volume",
        ),
        pytest.param(
            # Go reads these into nil pointers, and the missing time into zero
            config("v1alpha3", volume=None, proxy={"httpProxy": None}, garbageCollection={}, remoteURL=None),
            {"proxy": {}, "garbageCollection": {"ttl": "0s"}},
            id="nothing-and-no-time",
        ),
        pytest.param(
            config("v1alpha2", volume=None, garbageCollection=None, secretReferenceName=None),
            {},
            id="nothing-in-v1alpha2",
        ),
        pytest.param(
            config("v1alpha3", remoteURL="https://a.b", serviceNameSuffix="x"),
            {"remoteURL": "https://a.b", "serviceNameSuffix": "x"},
            id="v1alpha3",
        ),
    ],
)
def test_field_of_an_old_version_is_converted(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert converted(old) == config("v1alpha3", **new)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        pytest.param(
            config("v1alpha1", size="1Gi"),
            config("v1alpha1", volume={"size": "1Gi"}),
            "caches[0].volume: is not a known key; the known keys are upstream, garbageCollection, "
            "secretReferenceName, size",
            id="volume-in-v1alpha1",
        ),
        pytest.param(
            config("v1alpha2", volume={"size": "1Gi"}),
            config("v1alpha2", size="1Gi"),
            "caches[0].size: is not a known key; the known keys are upstream,",
            id="size-in-v1alpha2",
        ),
        pytest.param(
            config("v1alpha2", garbageCollection={"enabled": True}),
            config("v1alpha2", garbageCollection={"ttl": "1h"}),
            "caches[0].garbageCollection.ttl: is not a known key; the known keys are enabled",
            id="ttl-in-v1alpha2",
        ),
        pytest.param(
            config("v1alpha3", garbageCollection={"ttl": "1h"}),
            config("v1alpha3", garbageCollection={"enabled": True}),
            "caches[0].garbageCollection.enabled: is not a known key; the known keys are ttl",
            id="enabled-in-v1alpha3",
        ),
        pytest.param(
            config("v1alpha1", size="1Gi"),
            config("v1alpha1", size="0"),
            'caches[0].size: "0" is not a quantity of bytes greater than zero; write for example "10Gi"',
            id="size-zero-in-v1alpha1",
        ),
        pytest.param(
            config("v1alpha1"),
            {**config("v1alpha1"), "nodeProgram": {}},
            "nodeProgram: is not a known key; the known keys are apiVersion, kind, caches",
            id="settings-beside-v1alpha1",
        ),
        pytest.param(
            config("v1alpha2"),
            {**config("v1alpha2"), "kind": "RegistryStatus"},
            'kind: "RegistryStatus" is not a known value; write "RegistryConfig"',
            id="kind-of-v1alpha2",
        ),
    ],
)
def test_rule_of_an_old_version(good: object, bad: object, message: str) -> None:
    assert problems(good) == []
    assert any(problem.startswith(message) for problem in problems(bad)), problems(bad)


def edited(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the Shoot of the examples after a change."""
    shoot = copy.deepcopy(SHOOT)
    edit(shoot)
    return shoot


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(
            lambda shoot: shoot["spec"].pop("extensions"),
            "spec.extensions: no extension has the type registry-cache; write [{type: registry-cache, ",
            id="no-extensions",
        ),
        pytest.param(
            lambda shoot: shoot.update(spec="x"),
            "spec.extensions: no extension has the type registry-cache",
            id="no-spec",
        ),
        pytest.param(
            lambda shoot: shoot["spec"]["extensions"][1].pop("providerConfig"),
            "spec.extensions[1]: providerConfig is missing; write a RegistryConfig there",
            id="no-config",
        ),
        pytest.param(
            lambda shoot: shoot["spec"]["extensions"].append({"type": "registry-cache"}),
            "spec.extensions[2].type: another extension has the type registry-cache; write one extension of this type",
            id="extension-twice",
        ),
        pytest.param(
            lambda shoot: shoot["spec"].update(resources=[]),
            f"{IN_SHOOT}.caches[2].secretReferenceName: no entry of spec.resources has this name and a resourceRef of",
            id="no-resource",
        ),
        pytest.param(
            lambda shoot: shoot["spec"]["resources"][0]["resourceRef"].update(kind="ConfigMap"),
            f"{IN_SHOOT}.caches[2].secretReferenceName: no entry of spec.resources has this name",
            id="resource-of-another-kind",
        ),
        pytest.param(
            lambda shoot: shoot["spec"]["provider"]["workers"][0]["cri"].update(name="docker"),
            "spec.provider.workers[0].cri.name: the caches work with containerd only; write containerd",
            id="another-runtime",
        ),
        pytest.param(
            lambda shoot: shoot["spec"]["extensions"][1].update(providerConfig=[]),
            f"{IN_SHOOT}: [] is not a mapping with the key caches",
            id="config-a-list",
        ),
        pytest.param(
            lambda shoot: shoot["spec"]["extensions"][1]["providerConfig"]["caches"][0].update(upstream="Docker.io"),
            f'{IN_SHOOT}.caches[0].upstream: "Docker.io" is not',
            id="in-the-config",
        ),
        pytest.param(
            lambda shoot: shoot["spec"]["extensions"][1]["providerConfig"]["caches"][2].update(http={"tls": True}),
            f"{IN_SHOOT}.caches[2].http.tls: the certificate needs a fixed address of the Service; write",
            id="tls-without-an-address",
        ),
    ],
)
def test_rule_of_a_shoot(edit: Callable[[dict[str, Any]], object], message: str) -> None:
    assert problems(SHOOT) == []
    found = problems(edited(edit))
    assert any(problem.startswith(message) for problem in found), found


def test_lines_are_those_of_the_shoot() -> None:
    text = (EXAMPLES / "shoot.yaml").read_text().replace("ttl: 720h", "ttl: 7d")
    (problem,) = find_problems(parse(text.encode()))
    assert text.splitlines()[(problem.line or 0) - 1].strip() == "ttl: 7d"


def test_shoot_without_a_worker_with_a_runtime_is_valid() -> None:
    """Gardener's own default is containerd."""
    assert problems(edited(lambda shoot: shoot["spec"]["provider"]["workers"][0].pop("cri"))) == []


def test_old_version_in_a_shoot_is_read() -> None:
    shoot = edited(lambda made: made["spec"]["extensions"][1].update(providerConfig=config("v1alpha1", size="1Gi")))
    assert converted(shoot)["caches"] == [{"upstream": "docker.io", "volume": {"size": "1Gi"}}]


def notes_of(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    """Return the comments in the output of convert, in one line, and the document."""
    assert cli.main(["convert", str(path)]) == 0
    text = capsys.readouterr().out
    assert find_problems(parse(text.encode())) == []
    comments = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    return comments, yaml.safe_load(text)


def test_resource_of_a_shoot_becomes_the_name_of_its_secret(capsys: pytest.CaptureFixture[str]) -> None:
    notes, document = notes_of(EXAMPLES / "shoot.yaml", capsys)
    assert document["caches"][2]["secretReferenceName"] == "registry-example-com-2026-11"
    assert (
        "caches[2].secretReferenceName: the Shoot's resource shop-login is the project's Secret "
        "registry-example-com-2026-11; create a Secret registry-example-com-2026-11 with its username and password in "
        "the release's namespace" in notes
    )
    assert "Gardener uses TLS between nodes and caches by default" in notes


def test_validate_says_what_a_shoot_without_tls_means_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shoot = EXAMPLES / "shoot.yaml"
    assert cli.main(["validate", str(shoot)]) == 0
    note = f"{shoot}: note: Gardener uses TLS between nodes and caches by default; here it is HTTP unless"
    assert note in capsys.readouterr().err

    # Without `tls`, the mapping means the same as without `http`.
    def edit(shoot: dict[str, Any]) -> None:
        for cache in shoot["spec"]["extensions"][1]["providerConfig"]["caches"]:
            cache["http"] = {}

    (tmp_path / "shoot.yaml").write_text(json.dumps(edited(edit)))
    assert cli.main(["validate", str(tmp_path / "shoot.yaml")]) == 0
    assert "Gardener uses TLS" in capsys.readouterr().err
    assert cli.main(["validate", str(EXAMPLES / "registry-config.yaml")]) == 0
    assert capsys.readouterr().err == ""


def test_unsupported_fields_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(shoot: dict[str, Any]) -> None:
        shoot["spec"]["extensions"][1]["disabled"] = True
        shoot["spec"]["extensions"].append({"type": "registry-mirror", "providerConfig": {}})
        for cache in shoot["spec"]["extensions"][1]["providerConfig"]["caches"]:
            cache |= {"http": {"tls": True}, "highAvailability": {"enabled": True}}

    path = tmp_path / "shoot.yaml"
    path.write_text(json.dumps(edited(edit)))
    assert cli.main(["validate", str(path)]) == 1
    capsys.readouterr()
    notes, document = notes_of(path, capsys)
    for index, cache in enumerate(document["caches"]):
        assert (cache["http"], cache["highAvailability"]) == ({"tls": False}, {"enabled": True})
        assert f"caches[{index}].http.tls: true became false" in notes
    assert "highAvailability" not in notes
    assert "the Shoot disables the extension" in notes
    assert "registry-mirror is left out" in notes
    assert "Gardener uses TLS" not in notes


def test_missing_storage_class_of_v1alpha1_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    notes, document = notes_of(EXAMPLES / "registry-config-v1alpha1.yaml", capsys)
    assert "v1alpha1 had no storage class" in notes
    assert "storageClassName" not in str(document)


def test_converting_again_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, first = notes_of(EXAMPLES / "shoot.yaml", capsys)
    path = tmp_path / "converted.yaml"
    path.write_text(json.dumps(first))
    notes, second = notes_of(path, capsys)
    assert second == first
    assert notes == "Made by registry-cache convert."


def test_settings_beside_the_caches_stay() -> None:
    document = {**config("v1alpha3"), "nodeProgram": {"dialTimeout": "1s"}}
    assert converted(document) == document


@pytest.mark.parametrize("kind", ["List", "Shoot"])
@pytest.mark.parametrize("content", [None, 1, "x", [], {"spec": []}, {"spec": {"extensions": {}}}])
def test_malformed_document_of_any_kind_has_problems(kind: str, content: object) -> None:
    document = {"kind": kind, **(content if isinstance(content, dict) else {"spec": content, "items": content})}
    assert problems(document) != []


def test_invalid_document_is_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(json.dumps(config("v1alpha1", size="0")))
    assert cli.main(["convert", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{path}: line 1: caches[0].size: ")
