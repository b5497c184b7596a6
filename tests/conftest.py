"""What several rungs need."""

from __future__ import annotations

import pytest
from testcluster import tools


@pytest.fixture(scope="session", autouse=True)
def client_programs() -> None:
    """Have helm and kubectl before any test asks for them."""
    tools.ensure_client()
