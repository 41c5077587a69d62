"""Read what Gradescope says of a student's submissions, and decide by their times alone which are scored."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from staff.grader import receipts

DAY = timedelta(hours=24)


@dataclass(frozen=True)
class Previous:
    """What submission_metadata.json says of a student's earlier submissions, and when this one was made."""

    best: float = 0.0  # the highest score that the grader gave without an error
    receipt: dict[str, Any] | None = None  # of the latest one
    times: tuple[datetime, ...] = ()  # of those that the grader gave without an error
    created: datetime | None = None  # when this one was made: a regrade finds the same time


def read_metadata(path: Path) -> Previous:
    """Read what is needed of submission_metadata.json, after closing it to other users: it holds e-mail addresses."""
    try:
        os.chmod(path, 0o600)
        metadata = json.loads(path.read_text(encoding="utf-8"))
        earlier = metadata["previous_submissions"]
        good = [one for one in earlier if not one.get("autograder_error")]
        scores = [float(one["score"]) for one in good if one.get("score") is not None]
        found = receipts.find_receipt(earlier[-1].get("results")) if earlier else None
        times = filter(None, (read_time(one.get("submission_time")) for one in good))
        return Previous(max((score for score in scores if math.isfinite(score)), default=0.0), found,
                        tuple(times), read_time(metadata.get("created_at")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Previous()  # as in a rehearsal: there is no earlier submission


def read_time(text: Any) -> datetime | None:
    """Return a time such as "2026-11-27T14:22:32.365935-07:00"; None for anything else."""
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))  # which Python 3.10 does not take for UTC
    except (ValueError, AttributeError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def next_scored(times: Iterable[datetime], created: datetime, limit: int) -> datetime | None:
    """Return from when on a submission is scored on the test labels, if the one made at `created` is not; else None.

    At most `limit` submissions in 24 hours are scored; those that were not do not count. Only times decide it, never
    the clock, so a regrade comes to the same.
    """
    scored: list[datetime] = []
    for time_of_one in (*sorted(one for one in times if one < created), created):
        recent = [one for one in scored if one > time_of_one - DAY]
        if len(recent) < limit:
            scored.append(time_of_one)
    return None if scored[-1] == created else recent[0] + DAY


def withheld(previous: Previous, limit: int) -> str:
    """Return why a submission is not scored on the test labels, as the student reads it; "" where it is."""
    if not limit or previous.created is None:
        return ""
    when = next_scored(previous.times, previous.created, limit)
    return "" if when is None else (f"Not scored on the test labels: the limit is {limit} in 24 hours. The next "
                                    f"submission is scored if it is made after {when:%Y-%m-%d %H:%M:%S %Z}.")
