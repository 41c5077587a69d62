"""Stands in for the project's file of this name while expose functions are graded."""

from unittest import mock


class PretrainedError(Exception):
    """A checkpoint that cannot be read."""


def backbone_given(kind, gpt):
    """Make kind.from_pretrained(...) return `gpt` inside."""
    return mock.patch.object(kind, "from_pretrained", lambda *arguments, **options: gpt)
