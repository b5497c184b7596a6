"""A release is signed, and what was changed after that is refused: with GnuPG, cosign and a real registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from machine import tools
from made_releases import TAG, VERSION, made_repository, written_values
from publishing import build, run_release
from publishing.local_registry import local_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "Release of a test <release@example.com>"
PACKAGE = f"registry-cache-{VERSION}.tgz"


@dataclass(frozen=True)
class Published:
    """A release that was built and pushed, with the keys that verify it."""

    folder: Path
    registry: str
    digest: str
    cosign_key: Path
    keyring: Path

    @property
    def reference(self) -> str:
        return f"{self.registry}/registry-cache@{self.digest}"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Build the release as `make release` does, and push it as `make publish` does."""
    work = tmp_path_factory.mktemp("release")
    repository = made_repository(work / "repository")
    keyring = pgp_keys(work)
    cosign(work, "generate-key-pair")
    output = work / "files"
    pgp = ["--pgp-key", KEY, "--pgp-keyring", str(work / "secret.gpg")]
    arguments = ["--tag", TAG, "--repository", str(repository), "--output", str(output)]
    assert run_release.main(["build", *arguments, *pgp]) == 0
    with local_registry(work / "registry") as address:
        registry = f"{address}/charts"
        arguments = ["--registry", registry, "--output", str(output), "--cosign-key", str(work / "cosign.key")]
        assert run_release.main(["publish", *arguments, "--plain-http"]) == 0
        with tarfile.open(output / f"registry-cache-{VERSION}.oci.tar") as layout:
            index = layout.extractfile("index.json")
            assert index is not None
            digest = json.load(index)["manifests"][0]["digest"]
        yield Published(output, registry, digest, work / "cosign.pub", keyring)


def pgp_keys(folder: Path) -> Path:
    """Make a key pair, write `secret.gpg`, and return the keyring with the public key."""
    gpg, agent = tools.gpg()
    # The agent's socket must have a short path.
    home = Path("/tmp") / f"gpg-{os.getpid()}"
    home.mkdir(mode=0o700)
    command = [str(gpg), "--homedir", str(home), "--agent-program", str(agent), "--batch", "--passphrase", ""]
    command += ["--pinentry-mode", "loopback"]
    try:
        subprocess.run([*command, "--quick-generate-key", KEY, "rsa2048", "sign"], check=True, capture_output=True)
        for name, option in (("secret.gpg", "--export-secret-keys"), ("public.gpg", "--export")):
            subprocess.run([*command, "--output", str(folder / name), option, KEY], check=True, capture_output=True)
    finally:
        # The agent ends when its folder is gone.
        shutil.rmtree(home)
    return folder / "public.gpg"


def cosign(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = tools.program_environment(COSIGN_PASSWORD="")
    command = [str(tools.cosign()), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(tools.helm()), *arguments]
    return subprocess.run(command, env=tools.program_environment(), capture_output=True, text=True, check=False)


def verify_artifact(published: Published, reference: str, key: Path | None = None) -> int:
    """Verify as docs/guide/verify.md says, but with a key in place of the workflow's identity."""
    options = ["--key", str(key or published.cosign_key), "--insecure-ignore-tlog", "--allow-http-registry"]
    return cosign(published.folder, "verify", *options, reference, check=False).returncode


def test_chart_is_rendered_from_the_registry_by_digest_after_its_signature_was_verified(
    published: Published, tmp_path: Path
) -> None:
    assert verify_artifact(published, published.reference) == 0
    values = str(written_values(tmp_path))
    by_digest = helm("template", "x", f"oci://{published.reference}", "--plain-http", "--values", values)
    assert by_digest.returncode == 0, by_digest.stderr
    assert by_digest.stdout == helm("template", "x", str(published.folder / PACKAGE), "--values", values).stdout


def test_registry_has_the_artifact_that_was_built(published: Published) -> None:
    assert published.digest in (published.folder / build.NOTES).read_text()
    chart = f"oci://{published.registry}/registry-cache"
    by_version = helm("show", "chart", chart, "--version", VERSION, "--plain-http")
    assert published.digest in by_version.stdout + by_version.stderr


def test_signature_of_another_key_is_refused(published: Published, tmp_path: Path) -> None:
    cosign(tmp_path, "generate-key-pair")
    assert verify_artifact(published, published.reference, tmp_path / "cosign.pub") != 0


def test_artifact_that_was_not_signed_is_refused(published: Published, tmp_path: Path) -> None:
    subprocess.run(["tar", "--extract", "--file", str(published.folder / PACKAGE)], cwd=tmp_path, check=True)
    template = tmp_path / "registry-cache" / "templates" / "NOTES.txt"
    template.write_text(template.read_text() + "changed\n")
    assert helm("package", str(tmp_path / "registry-cache"), "--destination", str(tmp_path)).returncode == 0
    changed = helm("push", str(tmp_path / PACKAGE), f"oci://{published.registry}/changed", "--plain-http")
    digest = (changed.stdout + changed.stderr).rpartition("Digest: ")[2].strip()
    reference = f"{published.registry}/changed/registry-cache@{digest}"
    assert verify_artifact(published, reference) != 0


def test_provenance_of_the_package_is_verified_by_helm(published: Published, tmp_path: Path) -> None:
    verified = helm("verify", str(published.folder / PACKAGE), "--keyring", str(published.keyring))
    assert verified.returncode == 0, verified.stderr
    shutil.copyfile(published.folder / f"{PACKAGE}.prov", tmp_path / f"{PACKAGE}.prov")
    (tmp_path / PACKAGE).write_bytes((published.folder / PACKAGE).read_bytes() + b"\0")
    assert helm("verify", str(tmp_path / PACKAGE), "--keyring", str(published.keyring)).returncode != 0


def test_signature_of_the_checksums_is_verified(published: Published, tmp_path: Path) -> None:
    options = ["--key", str(published.cosign_key), "--insecure-ignore-tlog"]
    options += ["--bundle", str(published.folder / build.CHECKSUMS_BUNDLE)]
    cosign(published.folder, "verify-blob", *options, build.CHECKSUMS)
    changed = tmp_path / "changed"
    changed.write_text((published.folder / build.CHECKSUMS).read_text().replace("0", "1", 1))
    assert cosign(tmp_path, "verify-blob", *options, str(changed), check=False).returncode != 0


def test_second_build_is_the_same_artifact(published: Published, tmp_path: Path) -> None:
    again = tmp_path / "again"
    repository = published.folder.parent / "repository"
    assert run_release.main(["build", "--tag", TAG, "--repository", str(repository), "--output", str(again)]) == 0
    assert (again / build.CHECKSUMS).read_bytes() == (published.folder / build.CHECKSUMS).read_bytes()
