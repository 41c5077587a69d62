"""Import every family of attacks; ATTACKS is complete then."""

from tests.staff.grader.attacks import exhausting, faking, lasting, reaching, reading, replying
from tests.staff.grader.attacks.attack import ATTACKS

__all__ = ["ATTACKS", "exhausting", "faking", "lasting", "reaching", "reading", "replying"]
