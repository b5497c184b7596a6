"""The log of a program, and what it says about errors of the system."""

from __future__ import annotations

import pytest
from common.log import describe_oserror, log


def test_line_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    log("docker.io: ready")
    assert capsys.readouterr().out == "docker.io: ready\n"


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
