"""Read the files of a run folder as what anybody may have written: regular files, bounded, JSON of the right kind."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from common.errors import UserError, quoted
from common.files import read_bounded

SMALL, LARGE = 64 << 20, 2 << 30  # bytes: the most that a file of JSON may have; and all texts, or all logits


def damaged(path: Path, why: str) -> NoReturn:
    """Raise the error for a file that does not hold what the run wrote."""
    raise UserError(f"cannot use {quoted(path, 200)}: {why}\nThe run's folder is damaged or was edited: train again")


def read_bytes(path: Path, limit: int) -> bytes:
    """Return a file's content; UserError for a link, for anything but a regular file, and beyond `limit` bytes."""
    try:
        return read_bounded(path, limit, follow=False)
    except OSError as error:
        damaged(path, error.strerror or str(error))


def read_json(path: Path, kind: type, content: bytes | None = None, line: int | None = None) -> Any:
    """Return the JSON value of a kind that a file holds, or a line of it, with lone surrogates replaced."""
    where = "" if line is None else f"line {line}: "
    try:
        content = read_bytes(path, SMALL) if content is None else content
        value = json.loads(content)
        if b"\\u" in content:
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        damaged(path, f"{where}it is not JSON")
    if not isinstance(value, kind):
        damaged(path, f"{where}it holds something else than was written")
    return value


def read_lines(path: Path, limit: int) -> list[dict[str, Any]]:
    """Return the objects of a file with a line of JSON for each."""
    return [read_json(path, dict, line, number) for number, line in enumerate(read_bytes(path, limit).splitlines(), 1)]


def is_int(value: object, low: int, high: int) -> bool:
    """Tell whether a JSON value is a whole number in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object) -> bool:
    """Tell whether a JSON value is a number, finite and of a sensible size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 \
        and math.isfinite(value)


def strings(value: object) -> tuple[str, ...]:
    """Return a JSON list of strings; nothing for anything else."""
    return tuple(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else ()
