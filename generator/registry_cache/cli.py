"""The command `registry-cache`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import shtab

from registry_cache import plan
from registry_cache.build import CannotWrite, generate, generate_package
from registry_cache.convert import Converted, convert, without_what_has_no_counterpart
from registry_cache.document import Document, Unreadable, read
from registry_cache.names import RELEASE
from registry_cache.validation import Problem, problems

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DONE, PROBLEMS, REFUSED, USAGE, INTERRUPTED = 0, 1, 2, 64, 130
EXIT_CODES = """
exit codes: 0 all is well
            1 a document has problems, or something cannot be read, written, reached or found; nothing was changed
            2 plan: the upgrade would be refused
            64 wrong usage
"""
ANY_DOCUMENT = "a RegistryConfig of any version, a values file or a Shoot, YAML or JSON; - is standard input"


class Failed(Exception):
    """The command ends with exit code 1; the message is for standard error."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return the exit code."""
    try:
        options = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = options.run
        code = run(options)
        sys.stdout.flush()
    except (Failed, CannotWrite) as error:
        print(error, file=sys.stderr)
        return PROBLEMS
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # as `registry-cache … | head` does; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PROBLEMS
    return code


class _Parser(argparse.ArgumentParser):
    """One whose exit code for wrong usage is sysexits.h's, since plan uses 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="registry-cache",
        description="Checks a RegistryConfig and turns it into a Helm chart of pull-through registry caches.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], does: str, *examples: str
    ) -> argparse.ArgumentParser:
        shown = "\n".join(f"  {example}" for example in examples)
        made: argparse.ArgumentParser = commands.add_parser(
            name,
            help=does,
            description=f"{does[0].upper()}{does[1:]}.",
            epilog=f"examples:\n{shown}\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        return made

    validate = command(
        "validate",
        _validate,
        "print every problem of documents",
        "registry-cache validate registry-config.yaml",
        "registry-cache validate --output json shoots/*.yaml",
        "registry-cache convert shoot.yaml | registry-cache validate -",
    )
    _document(validate, "files", nargs="+")
    _output_format(validate)

    converts = command(
        "convert",
        _convert,
        "print a document of any version, or a Shoot's, as a RegistryConfig v1alpha3",
        "registry-cache convert shoot.yaml > registry-config.yaml",
    )
    _document(converts, "file")

    generates = command(
        "generate",
        _generate,
        "write the chart for a document",
        "registry-cache generate registry-config.yaml --output build/my-caches",
        "registry-cache generate registry-config.yaml --output build/my-caches --package",
    )
    _document(generates, "file")
    generates.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder of the chart")
    generates.add_argument("--name", help="the chart's name (default: made of the folder's)")
    generates.add_argument("--package", action="store_true", help="write DIR.tgz instead of a folder")

    plans = command(
        "plan",
        _plan,
        "print what an upgrade from one document to another does",
        "registry-cache plan old.yaml new.yaml",
        "git show HEAD:caches.yaml | registry-cache plan - caches.yaml",
    )
    _document(plans, "old", metavar="OLD")
    _document(plans, "new", metavar="NEW")
    plans.add_argument("--release", default=RELEASE, metavar="NAME", help="the Helm release (default: %(default)s)")
    _output_format(plans)

    discovers = command(
        "discover",
        _discover,
        "print a RegistryConfig for the upstreams that a cluster's images come from",
        "registry-cache discover > registry-config.yaml",
        "registry-cache discover --context production --values registry-config.yaml",
    )
    discovers.add_argument("--kubeconfig", type=Path, metavar="FILE", help="the kubeconfig (default: kubectl's)")
    discovers.add_argument("--context", metavar="NAME", help="a context of the kubeconfig (default: its current one)")
    _document(discovers, "--values", help=f"print only what this file lacks: {ANY_DOCUMENT}")

    completes = command(
        "completion",
        lambda options: _print(shtab.complete(_parser(), options.shell)),
        "print what makes a shell complete this command",
        "registry-cache completion bash > ~/.local/share/bash-completion/completions/registry-cache",
        "registry-cache completion zsh > ~/.zfunc/_registry-cache",
    )
    completes.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return parser


def _document(parser: argparse.ArgumentParser, name: str, **more: Any) -> None:  # noqa: ANN401 - argparse's
    argument = parser.add_argument(name, **{"metavar": "FILE", "help": ANY_DOCUMENT, **more})
    argument.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way


def _output_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", choices=("text", "json"), default="text", help="for people or for machines (default: %(default)s)"
    )


def _print(text: str) -> int:
    print(text)
    return DONE


def _validate(options: argparse.Namespace) -> int:
    found = [(name, problem) for name in options.files for problem in _problems_of_file(name)]
    if options.output == "json":
        print(json.dumps([{"file": name, **problem.as_json()} for name, problem in found], indent=2))
    else:
        _complain(found)
    return PROBLEMS if found else DONE


def _problems_of_file(name: str) -> list[Problem]:
    try:
        return problems(read(name))
    except Unreadable as error:
        return [Problem(error.line, "", error.text)]


def _convert(options: argparse.Namespace) -> int:
    document, notes = without_what_has_no_counterpart(_readable(options.file))
    converted = _converted(options.file, document)
    return _print(Converted(converted.values, [*notes, *converted.notes]).text().removesuffix("\n"))


def _generate(options: argparse.Namespace) -> int:
    converted = _converted(options.file, _readable(options.file))
    write = generate_package if options.package else generate
    write(converted.values, options.output, options.name)
    for note in converted.notes:
        print(f"{_called(options.file)}: note: {note}", file=sys.stderr)
    return DONE


def _plan(options: argparse.Namespace) -> int:
    if options.old == options.new == "-":
        message = "OLD and NEW are both standard input; name a file for one of them"
        raise Failed(message)
    old, new = (_converted(name, _readable(name)).values for name in (options.old, options.new))
    made = plan.plan(old, new, options.release)
    print(json.dumps(made.as_json(), indent=2) if options.output == "json" else made.text())
    return REFUSED if made.refused else DONE


def _discover(options: argparse.Namespace) -> int:
    has = []
    if options.values is not None:
        values = _converted(options.values, _readable(options.values)).values
        has = [cache["upstream"] for cache in values["caches"]]
    from registry_cache import discover  # noqa: PLC0415 - the client of Kubernetes takes a second to load

    try:
        found = discover.discover(discover.connect(options.kubeconfig, options.context))
    except discover.CannotDiscover as error:
        raise Failed(str(error)) from error
    _print(discover.document_text(found, has).removesuffix("\n"))
    return DONE if found.upstreams else PROBLEMS


def _readable(name: str) -> Document:
    try:
        return read(name)
    except Unreadable as error:
        message = f"{_called(name)}: {error}"
        raise Failed(message) from error


def _converted(name: str, document: Document) -> Converted:
    """A document's content as v1alpha3; where it has problems, they are printed and the command ends."""
    found = problems(document)
    if found:
        raise Failed("\n".join(f"{_called(name)}: {problem}" for problem in found))
    return convert(document)


def _complain(found: Sequence[tuple[str, Problem]]) -> None:
    for name, problem in found:
        print(f"{_called(name)}: {problem}", file=sys.stderr)


def _called(name: str) -> str:
    return "standard input" if name == "-" else name
