"""The command `registry-cache`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from registry_cache.build import CannotWrite, generate
from registry_cache.document import Document, Unreadable, read
from registry_cache.validation import problems

EPILOG = """
exit codes: 0 all is well; 1 the document has problems, or the chart cannot be written, and nothing was changed;
            2 wrong usage

example:
  registry-cache validate registry-config.yaml
  registry-cache generate registry-config.yaml --output build/my-caches
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        document = _valid(options.file)
        if document is None:
            return 1
        if options.command == "generate":
            generate(document.content, options.output, options.name)
    except CannotWrite as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="registry-cache",
        description="Checks a RegistryConfig and turns it into a Helm chart of pull-through registry caches.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    validate = commands.add_parser("validate", help="print every problem of a RegistryConfig or a values file")
    write = commands.add_parser("generate", help="write the chart for a RegistryConfig or a values file")
    for command in (validate, write):
        command.add_argument("file", type=Path, metavar="FILE", help="the document, YAML")
    write.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder of the chart")
    write.add_argument("--name", help="the chart's name (default: the folder's)")
    return parser


def _valid(path: Path) -> Document | None:
    """The document of a file; where it has problems they are printed, and there is none."""
    try:
        document = read(path)
    except Unreadable as error:
        print(f"{path}: {error}", file=sys.stderr)
        return None
    found = problems(document)
    for problem in found:
        print(f"{path}: {problem}", file=sys.stderr)
    return None if found else document
