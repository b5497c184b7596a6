"""Documents of other programs: each is recognized by every command, and converted without a password."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from made_foreign import DOCUMENTS, ENCODED, PASSWORD, Foreign
from registry_cache import cli
from registry_cache.convert import import_foreign
from registry_cache.document import Unreadable, parse
from registry_cache.foreign.mirrors import Mirrors, host_of
from registry_cache.foreign.recognize import recognize
from registry_cache.validation import find_problems

if TYPE_CHECKING:
    from pathlib import Path

GOOD = "caches: [{upstream: docker.io}]\n"
documents = pytest.mark.parametrize("foreign", DOCUMENTS, ids=str)


def write(folder: Path, foreign: Foreign) -> Path:
    path = folder / foreign.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(foreign.text)
    return path


@documents
def test_foreign_document_gets_one_line_from_every_command(
    tmp_path: Path, foreign: Foreign, capsys: pytest.CaptureFixture[str]
) -> None:
    path, good = write(tmp_path, foreign), tmp_path / "good.yaml"
    good.write_text(GOOD)
    for arguments in (
        ["validate", str(path)],
        ["generate", str(path), "--output", str(tmp_path / "chart")],
        ["plan", str(good), str(path)],
        ["plan", str(path), str(good)],
        ["discover", "--values", str(path)],
    ):
        assert cli.main(arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith(f"{path}: line ")
        assert f": this is {foreign.title}" in line
        assert ("names no registry that can have a cache" in line) is not foreign.upstreams
        assert all(upstream in line for upstream in foreign.upstreams)
        assert (f"`registry-cache convert {path} > registry-config.yaml`" in line) is bool(foreign.upstreams)
    assert not (tmp_path / "chart").exists()


@documents
def test_foreign_document_becomes_a_valid_one_without_its_passwords(
    tmp_path: Path, foreign: Foreign, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, foreign)
    assert cli.main(["convert", str(path)]) == (0 if foreign.upstreams else 1)
    captured = capsys.readouterr()
    assert PASSWORD not in captured.out + captured.err
    assert ENCODED not in captured.out + captured.err
    if not foreign.upstreams:
        assert captured.out == ""
        return
    assert captured.err == ""
    content = yaml.safe_load(captured.out)
    assert [cache["upstream"] for cache in content["caches"]] == foreign.upstreams
    assert all("remoteURL" not in cache for cache in content["caches"])
    assert find_problems(parse(captured.out.encode())) == []
    comments = " ".join(line.removeprefix("#").strip() for line in captured.out.splitlines() if line.startswith("#"))
    for note in foreign.notes:
        assert note in comments, comments


def test_settings_of_a_config_in_another_document_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for foreign in DOCUMENTS:
        if "volume" in foreign.text:
            assert cli.main(["convert", str(write(tmp_path, foreign))]) == 0
            (cache, *_) = yaml.safe_load(capsys.readouterr().out)["caches"]
            assert cache["volume"]["size"] in foreign.text


def test_several_files_become_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upstreams = ["docker.io", "quay.io", "_default", "registry.example.com_5000_"]
    paths = [tmp_path / upstream / "hosts.toml" for upstream in upstreams]
    for path in paths:
        path.parent.mkdir()
        path.write_text('[host."http://mirror.example.com:5000"]\n')
    assert cli.main(["convert", *map(str, paths)]) == 0
    output = capsys.readouterr().out
    converted = [cache["upstream"] for cache in yaml.safe_load(output)["caches"]]
    assert converted == ["docker.io", "quay.io", "registry.example.com:5000"]
    good = tmp_path / "good.yaml"
    good.write_text(GOOD)
    assert cli.main(["convert", str(good), str(good)]) == 1
    assert "contains 2 documents; write each of them into a file of its own" in capsys.readouterr().err


def test_problem_inside_another_document_has_its_path_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "umbrella.yaml"
    path.write_text("other: 1\nregistry-cache:\n  caches:\n    - upstream: docker.io\n      volume: {size: 0}\n")
    assert cli.main(["convert", str(path)]) == 1
    assert f"{path}: line 5: registry-cache.caches[0].volume.size: 0 is not" in capsys.readouterr().err


def test_login_becomes_the_name_of_a_secret() -> None:
    content = {"configs": {"registry.example.com:5000": {"auth": {"username": "u", "password": PASSWORD}}}}
    document, notes = import_foreign(parse(json.dumps(content).encode()))
    assert document.content["caches"] == [
        {"upstream": "registry.example.com:5000", "secretReferenceName": "registry-example-com-5000"}
    ]
    (note,) = notes
    assert note == (
        "registry.example.com:5000: the login is not copied; create a Secret registry-example-com-5000 with the keys "
        "username and password in the release's namespace"
    )


def test_registry_that_is_a_mirror_and_has_one_keeps_its_cache() -> None:
    content = {"mirrors": {"k8s.gcr.io": {"endpoint": ["https://a.b"]}, "a.b": {"endpoint": ["http://c.d:1"]}}}
    document, _ = import_foreign(parse(json.dumps(content).encode()))
    assert [cache["upstream"] for cache in document.content["caches"]] == ["k8s.gcr.io", "a.b"]


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://registry-1.docker.io/v2/", "docker.io"),
        ("HTTPS://Index.Docker.io", "docker.io"),
        ("ghcr.io/team", "ghcr.io"),
        ("http://user:p@ss/wo:rd@a.b:5000/v2?x#y", "a.b:5000"),
        ("//a.b", "a.b"),
        (" a.b ", "a.b"),
    ],
)
def test_host_of_a_name_or_url(text: str, host: str) -> None:
    assert host_of(text) == host


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind: Shoot\n---\nkind: Shoot\n", "contains 2 documents (2 Shoot); write each of them into a file"),
        ("a: 1\n---\nb: 1\n", "contains 2 documents; write each of them into a file"),
        (f"{GOOD}---\n{GOOD}", "contains 2 documents; write each"),
        ("mirrors: {}\n---\n" + GOOD, ": line 1: this is a file of 2 documents with a values file, which names docker"),
        ("kind: List\nitems: [{kind: List, items: []}]\n", "this is a List of 1 documents (1 List)"),
    ],
)
def test_several_documents_that_cannot_be_one(
    tmp_path: Path, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert cli.main(["validate", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


NAMES = (
    "mirrors configs docker.io * a.b:5000 endpoint endpoints auth username password tls ca_file rewrite machine "
    "registries config kind apiVersion items spec values data caches upstream plugins registry host server header "
    "io.containerd.cri.v1.images spegel mirroredRegistries registry-mirrors auths proxy remoteurl version storage "
    "settings container-registry credentials extensions type providerConfig url name op path value volume"
)
KEYS = st.sampled_from(NAMES.split())
LEAKS = (f"https://user:{PASSWORD}@a.b/{PASSWORD}", f"user:{PASSWORD}@a.b:3128", f"password = {PASSWORD}")
VALUES = st.sampled_from(
    [
        PASSWORD,
        *LEAKS[:2],
        "List",
        "Shoot",
        "RegistryMirrorConfig",
        "RegistryCacheConfig",
        "HelmRelease",
        "ConfigMap",
        "v1",
        "v1alpha1",
        "helm.toolkit.fluxcd.io/v2",
        "registry-cache",
        "/machine/registries/mirrors",
        "0.1",
        f"password = {PASSWORD}",
        "caches: []",
        None,
        True,
        0,
    ]
)
CONTENT = st.recursive(
    VALUES, lambda part: st.lists(part, max_size=3) | st.dictionaries(KEYS, part, max_size=4), max_leaves=25
)


@given(content=CONTENT, several=st.booleans())
def test_no_document_ends_in_a_traceback(content: Any, *, several: bool) -> None:
    text = json.dumps(content)
    for raw in (text, f"{text}\n---\n{text}") if several else (text,):
        try:
            document = parse(raw.encode())
        except Unreadable:
            assert content is None, "only nothing is no document"
            continue
        assert find_problems(document) != [] or "caches" in text
        import_foreign(document)


@given(
    shape=st.sampled_from([one.text for one in DOCUMENTS]),
    place=st.integers(0, 10_000),
    leak=st.sampled_from(LEAKS),
)
def test_conversion_repeats_no_login_wherever_it_stands(shape: str, place: int, leak: str) -> None:
    """A value anywhere in a document that is known is a URL with a login, or something that is not a name at all."""
    words = re.findall(r"[A-Za-z0-9./:-]{4,}", shape)
    text = shape.replace(words[place % len(words)], leak)
    try:
        _, notes = import_foreign(parse(text.encode()))
    except Unreadable:
        return
    assert PASSWORD not in "\n".join(notes)
    recognized = recognize(parse(text.encode()))
    if recognized and isinstance(recognized.content, Mirrors):
        assert PASSWORD not in json.dumps(recognized.content.config())


@given(
    text=st.lists(
        st.sampled_from(
            "caches: *P/P = P/P/a: *P/&P x/- P/password: P/password: 'P/[plugins]/p = 'P'/\t/---/{{/user:P@h/"
            "monitoring:/  - upstream: x/token: [P/password = P".replace("P", PASSWORD).split("/")
        ),
        max_size=6,
    ).map("\n".join)
)
def test_no_error_repeats_a_value_of_a_file_that_is_something_else(text: str) -> None:
    try:
        said = [str(problem) for problem in find_problems(parse(text.encode()))]
    except Unreadable as error:
        said = [str(error)]
    assert PASSWORD not in "\n".join(said)
