"""Make safe HTML: every text is text, whatever is in it. And write numbers the same way everywhere."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from report.statistics import Estimate

KEPT = "\n\t\u00a0\u200c\u200d"
"""Not printable for Python, but harmless: space of all kinds, and the joiners that some scripts and emoji need."""


def visible(text: object) -> str:
    """Return a text with the characters that cannot be seen, or that turn the text around, as escapes: \\u202e."""
    return "".join(c if c.isprintable() or c in KEPT else ascii(c)[1:-1] for c in str(text))


def safe(value: object) -> Markup:
    """Return what is to be shown: Markup as it is, everything else as text."""
    return value if isinstance(value, Markup) else escape(visible(value))


def tag(name: str, *inside: object, **attributes: object) -> Markup:
    """Return an element. What is inside, and the values of attributes, are text unless they are Markup."""
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{safe(value)}"'
                    for key, value in attributes.items() if value is not None)
    return Markup(f"<{name}{pairs}>{''.join(map(safe, inside))}</{name}>")


def cut(text: str, most: int = 400) -> str:
    """Return a text, or its beginning if it has more than `most` characters."""
    return text if len(text) <= most else f"{text[:most].rstrip()} … (and {len(text) - most:,} more characters)"


def sentence(text: str) -> str:
    """Return a text with a capital at its beginning and a full stop at its end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", ":")) or not text else ".")


def number(value: float, digits: int = 2) -> str:
    """Return a number with a real minus sign, which a spreadsheet never takes for the beginning of a formula."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if not float(text.replace(",", "")) else text.replace("-", "\u2212")


def percent(value: float, digits: int = 1) -> str:
    """Return a share as 57.5%."""
    return number(100 * value, digits) + "%"


def points(value: float) -> str:
    """Return a difference of two shares in points, with its sign."""
    return ("+" if value > 0 and float(f"{100 * value:.1f}") else "") + number(100 * value, 1)


def interval(low: str, high: str) -> str:
    """Return the ends of an interval in brackets, which a narrow column may put under the value, but not break."""
    return f"({low}\u00a0to\u00a0{high})"


def as_percent(found: Estimate | None) -> str:
    """Return a share with its interval: 57.5% (48.6 to 66.0)."""
    if found is None:
        return "–"
    return f"{percent(found.value)} {interval(number(100 * found.low, 1), number(100 * found.high, 1))}"


def as_points(found: Estimate) -> str:
    """Return a difference of shares with its interval: +12.5 (4.1 to 20.8)."""
    return f"{points(found.value)} {interval(points(found.low), points(found.high))}"


def as_number(found: Estimate | None, digits: int = 2) -> str:
    """Return a number with its interval."""
    if found is None:
        return "–"
    return f"{number(found.value, digits)} {interval(number(found.low, digits), number(found.high, digits))}"


def p_value(p: float) -> str:
    """Return a probability as people quote it."""
    return "< 0.001" if p < 0.001 else number(p, 3)


def listed(words: Sequence[object], most: int = 8) -> str:
    """Return words with commas between them, and how many are left out."""
    shown = ", ".join(map(str, words[:most]))
    return shown if len(words) <= most else f"{shown} and {len(words) - most:,} more"


def counted(count: float, one: str, more: str | None = None) -> str:
    """Return `1 text`, `2 texts`, or `1.5 texts`."""
    figure = f"{count:,.0f}" if float(count).is_integer() else f"{count:,.1f}"
    return f"{figure} {one if count == 1 else more or one + 's'}"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 90:
        return counted(round(seconds, 1), "second")
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
