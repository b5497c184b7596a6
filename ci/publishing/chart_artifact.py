"""The chart as a package and as an OCI artifact, and its signatures."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from machine import environment, tools
from machine.paths import user_home

from publishing import CannotRelease
from publishing.local_registry import local_registry

if TYPE_CHECKING:
    from publishing.source import Source

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DIGEST = re.compile(r"^Digest: (?P<digest>sha256:[0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class PgpKey:
    """A key with which Helm signs: its name, the file with the keyring, and the file with its passphrase, if any."""

    name: str
    keyring: Path
    passphrase_file: Path | None = None


def package_chart(source: Source, output: Path, key: PgpKey | None = None) -> Path:
    """Write `registry-cache-<version>.tgz`, with a key also its `.prov`, and return the package.

    The package is the same bytes each time, since Helm 4 gives each entry the time of its file. The `.prov` is not: it
    has the time at which it was signed.
    """
    signing = []
    if key:
        signing = ["--sign", "--key", key.name, "--keyring", str(key.keyring)]
        if key.passphrase_file:
            signing += ["--passphrase-file", str(key.passphrase_file)]
    _helm("package", str(source.chart), "--destination", str(output), *signing)
    package = output / f"registry-cache-{source.version}.tgz"
    # `helm push` writes the time of the package into the manifest.
    os.utime(package, (source.epoch, source.epoch))
    return package


def push_chart(package: Path, repository: str, *, plain_http: bool = False) -> str:
    """Push a package to `repository`, as in `ghcr.io/registry-cache/charts`, and return the digest of its manifest.

    The provenance file is not pushed with it: the digest would be another one for each signature.
    """
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(shutil.copy2(package, folder))
        pushed = _helm("push", str(alone), f"oci://{repository}", *(["--plain-http"] if plain_http else []))
    match = DIGEST.search(pushed)
    if not match:
        message = f"helm push printed no digest:\n{pushed}"
        raise CannotRelease(message)
    return match["digest"]


def write_oci_layout(package: Path, archive: Path) -> str:
    """Write the OCI artifact of a package as an OCI layout in a tar file, and return the digest of its manifest."""
    with tempfile.TemporaryDirectory() as folder, local_registry(Path(folder)) as address:
        digest = push_chart(package, f"{address}/charts", plain_http=True)
        manifest = _fetch(f"http://{address}/v2/charts/registry-cache/manifests/{digest}")
        content = json.loads(manifest)
        blobs = {
            one["digest"]: _fetch(f"http://{address}/v2/charts/registry-cache/blobs/{one['digest']}")
            for one in [content["config"], *content["layers"]]
        }
    version = content["annotations"]["org.opencontainers.image.version"]
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": MANIFEST,
                "digest": digest,
                "size": len(manifest),
                "annotations": {"org.opencontainers.image.ref.name": version},
            }
        ],
    }
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    files |= {f"blobs/{name.replace(':', '/')}": blob for name, blob in {**blobs, digest: manifest}.items()}
    with tarfile.open(archive, "w") as layout:
        for name, blob in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(blob), int(package.stat().st_mtime)
            layout.addfile(entry, io.BytesIO(blob))
    return digest


def sign_artifact(reference: str, key: Path | None, *, plain_http: bool = False) -> None:
    """Sign an OCI artifact, which `reference` names by digest, and push the signature beside it.

    Without a key, cosign gets a certificate for the identity of the workflow that runs, and logs it publicly.
    """
    _cosign("sign", "--yes", *_key_options(key), *(["--allow-http-registry"] if plain_http else []), reference)


def sign_file(file: Path, bundle: Path, key: Path | None) -> None:
    """Sign a file, and write the signature with all that verifies it."""
    _cosign("sign-blob", "--yes", *_key_options(key), "--bundle", str(bundle), str(file))


def _key_options(key: Path | None) -> list[str]:
    # With a key, nothing is sent to the public log, which is not reachable from everywhere.
    return ["--key", str(key), "--use-signing-config=false", "--tlog-upload=false"] if key else []


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"Accept": MANIFEST})  # noqa: S310 - our own registry
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        content: bytes = response.read()
        return content


def _helm(*arguments: str) -> str:
    tools.ensure_client()
    home = tools.program_environment()["HOME"]
    return _run([str(tools.helm()), *arguments], environment.for_downloads(HOME=home, **_registry_login()))


def _cosign(*arguments: str) -> str:
    # Signing without a key takes the token of the workflow from its environment.
    workflow = {name: value for name, value in os.environ.items() if name.startswith("ACTIONS_ID_TOKEN_")}
    password = os.environ.get("COSIGN_PASSWORD", "")
    variables = environment.for_downloads(**workflow, **_registry_login(), COSIGN_PASSWORD=password)
    return _run([str(tools.cosign()), *arguments], variables)


def _registry_login() -> dict[str, str]:
    """Return where the logins of registries are: helm and cosign both read Docker's file."""
    folder = Path(os.environ.get("DOCKER_CONFIG", str(user_home() / ".docker")))
    return {"DOCKER_CONFIG": str(folder), "HELM_REGISTRY_CONFIG": str(folder / "config.json")}


def _run(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{Path(command[0]).name} {command[1]} failed:\n{done.stdout}{done.stderr}"
        raise CannotRelease(message)
    return done.stdout + done.stderr
