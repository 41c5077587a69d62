"""What the grader's tests share: one sandbox, because its start imports PyTorch."""

from collections.abc import Iterator

import pytest

from staff.grader.sandbox import Sandbox


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    """A running sandbox."""
    with Sandbox() as sandbox:
        yield sandbox
