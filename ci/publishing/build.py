"""Builds the files of a release: the same bytes from the same tag, except for signatures."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from machine import environment

from publishing import CannotRelease, bill_of_materials, chart_artifact
from publishing.source import release_notes

if TYPE_CHECKING:
    from publishing.chart_artifact import PgpKey
    from publishing.source import Source

CHECKSUMS = "SHA256SUMS"
CHECKSUMS_BUNDLE = "SHA256SUMS.sigstore.json"
NOTES = "release-notes.md"
SIGNATURES = (".prov", ".sigstore.json")


def build_files(source: Source, output: Path, key: PgpKey | None = None) -> Path:
    """Build everything that needs no registry, and return the chart's package."""
    output.mkdir(parents=True, exist_ok=True)
    package = chart_artifact.package_chart(source, output, key)
    _build_python_package(source, output)
    shutil.copyfile(source.folder / "values.schema.json", output / "values.schema.json")
    (output / f"registry-cache-{source.version}.spdx.json").write_text(bill_of_materials.spdx(source))
    (output / f"registry-cache-{source.version}.cdx.json").write_text(bill_of_materials.cyclonedx(source))
    notes = release_notes((source.folder / "CHANGELOG.md").read_text(), source.version)
    (output / NOTES).write_text(notes)
    return package


def build_release(source: Source, output: Path, key: PgpKey | None = None) -> str:
    """Build all files of the release, and return the digest of the chart's OCI artifact."""
    package = build_files(source, output, key)
    digest = chart_artifact.write_oci_layout(package, output / f"registry-cache-{source.version}.oci.tar")
    with (output / NOTES).open("a") as notes:
        notes.write(f"\nChart: `oci://ghcr.io/registry-cache/charts/registry-cache@{digest}`\n")
    write_checksums(output)
    return digest


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a release except the signatures, for `sha256sum --check`."""
    files = sorted(path for path in folder.iterdir() if path.name != CHECKSUMS and not path.name.endswith(SIGNATURES))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / CHECKSUMS).write_text("".join(lines))


def _build_python_package(source: Source, output: Path) -> None:
    """Build the wheel and the sdist with the pinned hatchling of the tests, without a network."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(output.resolve())],
        cwd=source.folder,
        env={**environment.for_downloads(), "SOURCE_DATE_EPOCH": str(source.epoch), "PATH": _path()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        message = f"hatchling failed:\n{done.stdout}{done.stderr}"
        raise CannotRelease(message)


def _path() -> str:
    return environment.search_path((Path(sys.executable).parent,))
