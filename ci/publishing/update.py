"""`make update`: newer patch versions of the pinned programs and images, and the digests of the images.

A minor or major version is a decision, which this leaves to people. What cannot be reached stays as it is, which is
printed.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from machine import SetupFailed, environment, gobuild
from machine.paths import REPOSITORY
from packaging.requirements import Requirement
from registry_cache.model.pods import Image, Images

from publishing.bill_of_materials import COMPONENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

INDEXES = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
PLATFORMS = {"linux/amd64", "linux/arm64"}
# 1.2.3 with what stands before and after it, such as v1.2.3 or 1.28.0-alpine.
VERSION = re.compile(r"(?P<before>v?)(?P<minor>\d+\.\d+)(?:\.(?P<patch>\d+))?(?P<after>-alpine)?")
IMAGE_FILES = ("generator/registry_cache/model/pods.py", "chart/Chart.yaml")


class CannotReach(Exception):
    """Something could not be reached, or does not have what is needed."""

    def __init__(self, where: str, why: object) -> None:
        """Say where it is, and why not."""
        super().__init__(f"{where}: {why}")


@dataclass(frozen=True)
class Registry:
    """A registry that hands out public images, as the distribution specification says."""

    host: str
    scheme: str = "https"

    def tags(self, repository: str) -> list[str]:
        """Return the tags of a repository."""
        body, _ = self._get(f"{repository}/tags/list", repository)
        tags: list[str] = json.loads(body)["tags"]
        return tags

    def digest(self, repository: str, tag: str) -> str:
        """Return the digest of the index of a tag, which must have an image for each of our platforms.

        Raises:
            CannotReach: The registry does not answer, or the tag does not have these images.
        """
        body, headers = self._get(f"{repository}/manifests/{tag}", repository)
        manifests = json.loads(body).get("manifests", [])
        found = {f"{one['platform']['os']}/{one['platform']['architecture']}" for one in manifests if "platform" in one}
        if not found >= PLATFORMS:
            reference = f"{repository}:{tag}"
            raise CannotReach(reference, f"no image for {', '.join(sorted(PLATFORMS - found))}")
        return headers["Docker-Content-Digest"]

    def _get(self, path: str, repository: str) -> tuple[bytes, dict[str, str]]:
        url = f"{self.scheme}://{self._api_host()}/v2/{path}"
        headers = {"Accept": INDEXES}
        try:
            return _read(url, headers)
        except urllib.error.HTTPError as error:
            if error.code != 401:  # noqa: PLR2004 - unauthorized
                raise CannotReach(url, error) from error
            challenge = dict(re.findall(r'(\w+)="([^"]*)"', error.headers["WWW-Authenticate"]))
        except OSError as error:
            raise CannotReach(url, error) from error
        realm = f"{challenge['realm']}?service={challenge['service']}&scope=repository:{repository}:pull"
        try:
            token = json.loads(_read(realm, {})[0])["token"]
            return _read(url, {**headers, "Authorization": f"Bearer {token}"})
        except OSError as error:
            raise CannotReach(url, error) from error

    def _api_host(self) -> str:
        return "registry-1.docker.io" if self.host == "docker.io" else self.host


def newest_patch(current: str, offered: Iterable[str]) -> str:
    """Return the newest version with the same minor version and the same words before and after it."""
    mine = VERSION.fullmatch(current)
    if not mine or mine["patch"] is None:
        return current
    matches = [match for match in map(VERSION.fullmatch, offered) if match and match["patch"] is not None]
    parts = ("before", "minor", "after")
    same = [match for match in matches if match.group(*parts) == mine.group(*parts)]
    return max([mine, *same], key=lambda match: int(match["patch"]))[0]


def update_programs(text: str, versions_of: Callable[[str], list[str]]) -> str:
    """Return ci/tools.toml with newer patch versions; `versions_of` returns those of a Go module."""
    sections = re.split(r"(?m)^(?=\[)", text)
    return "".join(_update_section(section, versions_of) for section in sections)


def update_image(text: str, image: Image, tag: str) -> str:
    """Return the text of a file with another tag of an image, wherever the file has the old one."""
    return re.sub(rf'(?<=[":]){re.escape(image.tag)}(?=["\n])', tag, text)


def update_packages(text: str) -> str:
    """Return ci/publishing/components.toml with the packages that are installed here, and their versions.

    Raises:
        CannotReach: A package is new, so that somebody must look up its license.
    """
    head, table = re.split(r"(?m)(?<=^\[packages\]\n)", text)
    licenses = dict(re.findall(r'(?m)^(\S+) = \{ version = "[^"]*", license = "([^"]*)" \}$', table))
    installed = dict(sorted(_dependencies("registry-cache").items()))
    if new := sorted(set(installed) - set(licenses)):
        raise CannotReach(COMPONENTS, f"write the license of {', '.join(new)}")
    lines = [f'{name} = {{ version = "{installed[name]}", license = "{licenses[name]}" }}\n' for name in installed]
    return head + "".join(lines)


def find_image(image: Image, scheme: str = "https") -> tuple[Registry, str]:
    """Return the registry of an image, and the repository there."""
    host, _, path = image.registry.partition("/")
    return Registry(host, scheme), f"{path}/{image.repository}".removeprefix("/")


def main() -> int:
    """Update all that can be reached, and return the exit code."""
    environment.clean_process()
    _rewrite(Path("ci/tools.toml"), lambda text: update_programs(text, _module_versions))
    _rewrite(Path(COMPONENTS), update_packages)
    for name, image in Images():
        registry, repository = find_image(image)
        try:
            tag = newest_patch(image.tag.partition("@")[0], registry.tags(repository))
            pinned = f"{tag}@{registry.digest(repository, tag)}"
        except CannotReach as error:
            print(f"  {name} stays at {image.tag}: {error}")
            continue
        print(f"  {name}: {image.tag} -> {pinned}")
        for file in IMAGE_FILES:
            path = REPOSITORY / file
            path.write_text(update_image(path.read_text(), image, pinned))
    return 0


def _rewrite(name: Path, update: Callable[[str], str]) -> None:
    path = REPOSITORY / name
    before = path.read_text()
    try:
        after = update(before)
    except CannotReach as error:
        print(f"  {name} stays as it is: {error}")
        return
    path.write_text(after)
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    print(f"  {name}: {len(changed)} lines changed", *changed, sep="\n    ")


def _update_section(section: str, versions_of: Callable[[str], list[str]]) -> str:
    module = re.search(r'(?m)^module = "([^"]+)"$', section)
    version = re.search(r'(?m)^version = "([^"]+)"$', section)
    if not module or not version:
        return section
    try:
        newer = newest_patch(version[1], versions_of(module[1]))
    except SetupFailed:
        print(f"  {module[1]} stays at {version[1]}: its versions cannot be listed")
        return section
    # `stamp` and `staging` have the same version with another beginning.
    old_patch, new_patch = version[1].removeprefix("v"), newer.removeprefix("v")
    staging_old, staging_new = f"v0.{old_patch.partition('.')[2]}", f"v0.{new_patch.partition('.')[2]}"
    updated = section.replace(old_patch, new_patch)
    return updated.replace(f'staging = "{staging_old}"', f'staging = "{staging_new}"')


def _module_versions(module: str) -> list[str]:
    with tempfile.TemporaryDirectory() as work:
        return gobuild.module_versions(module, Path(work))


def _dependencies(name: str) -> dict[str, str]:
    """Return what a package needs, and what that needs in turn, with the versions that are installed."""
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        for requirement in map(Requirement, metadata.distribution(waiting.pop()).requires or []):
            needed = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if needed not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                found[needed] = metadata.version(needed)
                waiting.append(needed)
    return found


def _read(url: str, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    opener = urllib.request.build_opener()
    with opener.open(urllib.request.Request(url, headers=headers), timeout=30) as response:  # noqa: S310 - http or https
        return response.read(), dict(response.headers)


if __name__ == "__main__":
    sys.exit(main())
