"""What the tests of this room share."""

from tests.finetuning.test_run import folder  # noqa: F401 (a fixture)
