"""`make release`: builds a release from a tag; `make publish`: pushes what was built, and signs it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from machine import SetupFailed, environment
from machine.paths import REPOSITORY

from publishing import CannotRelease, build, chart_artifact
from publishing.source import export_tag

OUTPUT = REPOSITORY / "build" / "release"
# What cosign reads: the password of a key, and the token of the workflow.
SIGNING = ("ACTIONS_ID_TOKEN_", "COSIGN_")


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return the exit code."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(SIGNING) or name == "DOCKER_CONFIG"}
    environment.clean_process()
    os.environ.update(kept)
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.command == "build":
            _build(chosen)
        else:
            _publish(chosen)
    except (CannotRelease, SetupFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m publishing.run_release", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    built = commands.add_parser("build", help="build the files of a tag into build/release")
    built.add_argument("--tag", required=True, help="the tag, as in v1.2.3")
    built.add_argument("--repository", type=Path, default=REPOSITORY, help="the git repository with the tag")
    built.add_argument("--output", type=Path, default=OUTPUT, help="the folder for the files")
    built.add_argument("--pgp-key", help="name of the PGP key that signs the package")
    built.add_argument("--pgp-keyring", type=Path, help="file with that key, as `gpg --export-secret-keys` writes it")
    built.add_argument("--pgp-passphrase-file", type=Path, help="file with the key's passphrase")
    published = commands.add_parser("publish", help="push the chart, and sign it and the checksums")
    published.add_argument("--registry", required=True, help="the repository for charts, as in ghcr.io/name/charts")
    published.add_argument("--output", type=Path, default=OUTPUT, help="the folder with the files")
    published.add_argument("--cosign-key", type=Path, help="sign with this key, not with the workflow's identity")
    published.add_argument("--plain-http", action="store_true", help="the registry has no TLS")
    return parser


def _build(chosen: argparse.Namespace) -> None:
    if bool(chosen.pgp_key) != bool(chosen.pgp_keyring):
        message = "--pgp-key and --pgp-keyring belong together"
        raise CannotRelease(message)
    key = None
    if chosen.pgp_key:
        key = chart_artifact.PgpKey(chosen.pgp_key, chosen.pgp_keyring, chosen.pgp_passphrase_file)
    if chosen.output.exists():
        shutil.rmtree(chosen.output)
    with tempfile.TemporaryDirectory() as work:
        source = export_tag(chosen.repository, chosen.tag, Path(work) / "registry-cache")
        digest = build.build_release(source, chosen.output, key)
    print(f"{chosen.output}: {len(list(chosen.output.iterdir()))} files; the chart is {digest}")


def _publish(chosen: argparse.Namespace) -> None:
    """Push the chart and sign it. The registry must give it the digest that was built."""
    (package,) = chosen.output.glob("registry-cache-*.tgz")
    digest = chart_artifact.push_chart(package, chosen.registry, plain_http=chosen.plain_http)
    if digest not in (chosen.output / build.NOTES).read_text():
        message = f"{chosen.registry}: the pushed chart is {digest}, which is not what was built"
        raise CannotRelease(message)
    reference = f"{chosen.registry}/registry-cache@{digest}"
    chart_artifact.sign_artifact(reference, chosen.cosign_key, plain_http=chosen.plain_http)
    bundle = chosen.output / build.CHECKSUMS_BUNDLE
    chart_artifact.sign_file(chosen.output / build.CHECKSUMS, bundle, chosen.cosign_key)
    print(reference)


if __name__ == "__main__":
    sys.exit(main())
