"""Ratings that a reviewer states, such as "8/10" or "3 out of 10": taken out of the text and kept beside it."""

import re

STATED = re.compile(
    r"(?<![\w.,/*-])(?P<value>10|\d(?:[.,]\d+)?)(?: stars?)?\s*(?:/|out of)\s*(?:10|ten)\b(?: stars?\b)?"
    r"(?![/.,]?\d|\s*(?:of|in|people|times|years|minutes)\b)", re.IGNORECASE)
"""A number of ten, but neither a date (9/10/2001) nor a share ("9 out of 10 people")."""


def take_out_rating(text: str) -> tuple[str, float | None]:
    """The text without its rating, and the rating, 0 to 10; the text as it is, and None, where it states none.

    A text that states several ratings which differ speaks of several things, and counts as one without.
    """
    stated = {float(match["value"].replace(",", ".")) for match in STATED.finditer(text)}
    if len(stated) != 1:
        return text, None
    return " ".join(STATED.sub(" ", text).split()), stated.pop()
