"""What the tests of this room share."""

from collections.abc import Iterator

import pytest

from tests.report.browser import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium; without it the test is skipped."""
    there = Browser()
    yield there
    there.close()
