"""The log of a program, and what it says about errors of the system."""

from __future__ import annotations

import pytest
from common.log import ProblemLog, SeldomLog, describe_oserror, log


def test_line_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    log("docker.io: ready")
    assert capsys.readouterr().out == "docker.io: ready\n"


def test_topic_is_logged_again_only_after_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines = [1000.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    seldom = SeldomLog(lines.append, 60, 2)
    for topic, line in (("a", "first"), ("a", "too soon"), ("b", "other")):
        seldom.log(topic, line)
    clock[0] += 61
    seldom.log("a", "later")
    assert lines == ["first", "other", "later"]


def test_problem_is_logged_when_it_begins_or_changes() -> None:
    lines: list[str] = []
    problems = ProblemLog(lines.append)
    for problem in ("", "full", "full", "gone", "", "gone", "gone"):
        problems.note(problem)
    assert lines == ["full", "gone", "gone"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(28, "No space left on device", "/host/x"), "No space left on device: /host/x"),
        (OSError("cannot read from timed out object"), "cannot read from timed out object"),
    ],
    ids=str,
)
def test_error_is_described_with_its_path(error: OSError, words: str) -> None:
    assert describe_oserror(error) == words
