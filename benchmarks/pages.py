"""Pages whose numbers are written by a command, between two marks that say so."""

from common.errors import UserError


def put_between(text: str, begin: str, end: str, content: str, page: str) -> str:
    """text with what stands between the marks replaced by content; UserError, naming the page, if a mark is gone."""
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise UserError(f"{page} has lost its marks {begin.strip()} and {end.strip()}")
    return f"{before}{begin}{content}{end}{after}"
