"""`make update` takes newer patch versions and the digests of images, and nothing else."""

from __future__ import annotations

import json
import re
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from machine import SetupFailed
from machine.paths import REPOSITORY
from publishing import update
from publishing.check_images import missing_images
from publishing.update import CannotReach, Registry
from registry_cache.model.pods import Image, Images

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGEST = "sha256:" + "a" * 64


def platform(architecture: str) -> dict[str, object]:
    return {"platform": {"os": "linux", "architecture": architecture}}


INDEXES = {
    "1.0.0": [platform("amd64"), platform("arm64"), platform("s390x")],
    "1.0.1": [platform("amd64")],
    "1.0.2": [],
}
INDEXES_BY_DIGEST = {tag: f"sha256:{number:064}" for number, tag in enumerate(INDEXES)}


class _Handler(BaseHTTPRequestHandler):
    """A registry with three tags that wants a token, as Docker Hub does."""

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            self.answer(200, {"token": "t"})
        elif self.headers["Authorization"] != "Bearer t":
            realm = f"http://{self.headers['Host']}/token"
            self.answer(401, {}, {"WWW-Authenticate": f'Bearer realm="{realm}",service="registry"'})
        elif self.path.endswith("/tags/list"):
            self.answer(200, {"tags": list(INDEXES)})
        else:
            reference = self.path.rpartition("/")[2]
            tags = {digest: tag for tag, digest in INDEXES_BY_DIGEST.items()}
            manifests = INDEXES[tags.get(reference, reference)]
            self.answer(200, {"manifests": manifests}, {"Docker-Content-Digest": DIGEST})

    def answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield Registry(f"127.0.0.1:{server.server_port}", "http")
        server.shutdown()


@pytest.mark.parametrize(
    ("current", "offered", "newest"),
    [
        ("v1.36.3", ["v1.36.10", "v1.36.9", "v1.37.0", "v1.36.11-rc.1", "1.36.12"], "v1.36.10"),
        ("1.28.0-alpine", ["1.28.1-alpine", "1.28.2", "1.28.3-alpine-slim", "1.29.0-alpine"], "1.28.1-alpine"),
        ("3.1.1", ["3.1.0", "3.1"], "3.1.1"),
        ("3.13-alpine", ["3.13.9-alpine", "3.14-alpine"], "3.13-alpine"),
    ],
)
def test_newest_patch_keeps_minor_version_and_variant(current: str, offered: list[str], newest: str) -> None:
    assert update.newest_patch(current, offered) == newest


def test_programs_get_newer_patch_versions_everywhere_in_their_section() -> None:
    text = (REPOSITORY / "ci/tools.toml").read_text()
    kubernetes = tomllib.loads(text)["go"]["kubernetes"]["version"]
    minor = kubernetes.rpartition(".")[0]

    def versions_of(module: str) -> list[str]:
        return [f"{minor}.99"] if module == "k8s.io/kubernetes" else []

    updated = update.update_programs(text, versions_of)
    entry = tomllib.loads(updated)["go"]["kubernetes"]
    assert entry["version"] == entry["stamp"]["k8s.io/component-base/version.gitVersion"] == f"{minor}.99"
    assert entry["staging"] == f"v0.{minor.partition('.')[2]}.99"
    changed = [line for line in updated.splitlines() if line not in text.splitlines()]
    assert len(changed) == 3


def test_program_whose_versions_cannot_be_listed_stays() -> None:
    def versions_of(module: str) -> list[str]:
        raise SetupFailed(module)

    text = (REPOSITORY / "ci/tools.toml").read_text()
    assert update.update_programs(text, versions_of) == text


def test_registry_is_read_with_the_token_that_it_wants(registry: Registry) -> None:
    assert registry.tags("library/x") == ["1.0.0", "1.0.1", "1.0.2"]
    assert registry.digest("library/x", "1.0.0") == DIGEST


@pytest.mark.parametrize(("tag", "missing"), [("1.0.1", "linux/arm64"), ("1.0.2", "linux/amd64, linux/arm64")])
def test_tag_without_an_image_for_each_platform_is_not_pinned(registry: Registry, tag: str, missing: str) -> None:
    with pytest.raises(CannotReach, match=f"no image for {missing}$"):
        registry.digest("library/x", tag)


def test_registry_that_is_away_is_reported() -> None:
    with pytest.raises(CannotReach, match=r"http://127\.0\.0\.1:1/v2/"):
        Registry("127.0.0.1:1", "http").tags("library/x")


@pytest.mark.parametrize("name", [name for name, _ in Images()])
@pytest.mark.parametrize("file", update.IMAGE_FILES)
def test_image_gets_its_tag_and_digest_in_each_file(name: str, file: str) -> None:
    image, text = getattr(Images(), name), (REPOSITORY / file).read_text()
    updated = update.update_image(text, image, f"9.9.9@{DIGEST}")
    assert updated.count(f"9.9.9@{DIGEST}") == 1
    changed = [line for line in updated.splitlines() if line not in text.splitlines()]
    assert len(changed) == 1


@pytest.mark.parametrize("image", [image for _, image in Images()], ids=lambda image: image.repository)
def test_images_are_pinned_by_digest(image: Image) -> None:
    assert re.fullmatch(r"[\w.-]+@sha256:[0-9a-f]{64}", image.tag)
    assert image.reference.endswith(f":{image.tag}")


def test_images_that_cannot_be_pulled_for_both_platforms_are_named(registry: Registry) -> None:
    there, partly = (
        Image(registry=registry.host, repository="library/x", tag=f"1@{INDEXES_BY_DIGEST[tag]}")
        for tag in ("1.0.0", "1.0.1")
    )
    assert missing_images([there], "http") == []
    (line,) = missing_images([there, partly], "http")
    assert line.startswith(f"{partly.reference}: ")
    assert line.endswith("no image for linux/arm64")


def test_packages_are_those_that_are_installed() -> None:
    text = (REPOSITORY / "ci/publishing/components.toml").read_text()
    updated = update.update_packages(text)
    assert tomllib.loads(updated)["images"] == tomllib.loads(text)["images"]
    assert set(tomllib.loads(updated)["packages"]) >= {"pydantic", "kubernetes", "urllib3"}
    with pytest.raises(CannotReach, match=r"write the license of pydantic$"):
        update.update_packages(re.sub(r"(?m)^pydantic = .*\n", "", text))
