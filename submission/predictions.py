"""Check prediction files: their form, byte for byte, and that they answer every row of their data file.

Correct files that look odd get advice, which does not block a submission.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import quoted
from data.reader import DataError, Example, read_examples
from data.rules import Rules
from submission.manifest import MODES, PARTS, Finding, Part

HEADER = "id \t Predicted_Sentiment "
ROW = re.compile(r"(?P<id>[^,]+), (?P<label>.+) ")
DOWNLOAD = "./setup.sh -m data.download"
SHOWN = 5
"Number of problems shown for one file; the others are only counted."

BANDS: dict[str, tuple[float, float]] = {
    "last-linear-layer-sst": (0.44, 0.49),
    "full-model-sst": (0.50, 0.52),
    "last-linear-layer-cfimdb": (0.83, 0.89),
    "full-model-cfimdb": (0.96, 0.98),
}
"Lowest and highest dev accuracy of a dozen published solutions with GPT-2 (124M). Other backbones differ."

SLACK = 0.02
"Added to both ends of a band: about one standard error of a dev accuracy."


@dataclass(frozen=True)
class Predictions:
    """The content of a prediction file, as far as it could be read."""

    labels: dict[str, int]
    "id -> label"
    problems: list[Finding]


def read_data(root: Path, part: Part, split: str) -> list[Example] | Finding:
    """Return the rows of the data file that the predictions answer, or a Finding if it cannot be read."""
    file = part.data(split)
    if not (root / file).exists():
        return Finding(file, "missing, so the ids cannot be checked", fix=DOWNLOAD)
    try:
        return read_examples(root / file, labelled=split == "dev", num_labels=part.task.num_labels,
                             rules=Rules())
    except DataError as error:
        return Finding(file, f"not as the course gives it: {error}", fix=DOWNLOAD)


def check_predictions(file: str, content: bytes, data: list[Example] | None, num_labels: int) -> Predictions:
    """Check the form of a prediction file, and that it answers the rows of `data` (None: unknown) in any order."""
    text, problems = _decode(content)
    *lines, rest = text.split("\n")
    if rest:
        lines.append(rest)
        problems.append((len(lines), "the last line does not end: was the file cut short?"))
    if not lines or lines[0] != HEADER:
        problems.append((1, f"the first line must be {HEADER!r}, is {quoted(lines[0] if lines else '')}"))

    labels: dict[str, int] = {}
    allowed = {str(label): label for label in range(num_labels)}  # not 01, 1.0 or other digits than ASCII's
    for number, line in enumerate(lines[1:], start=2):
        row = ROW.fullmatch(line)
        if not row:
            problems.append((number, f"must be 'ID, LABEL ' (with the space at the end), is {quoted(line)}"))
        elif row["label"] not in allowed:
            problems.append((number, f"the label must be 0 to {num_labels - 1}, is {quoted(row['label'])}"))
        elif row["id"] in labels:
            problems.append((number, f"the id {quoted(row['id'])} is there twice"))
        # A wrong row still names its example, which is therefore not reported as missing.
        if id := row["id"] if row else re.split("[,\t]", line)[0].strip():
            labels.setdefault(id, allowed.get(row["label"], 0) if row else 0)

    findings = [Finding(file, message, line) for line, message in problems[:SHOWN]]
    if len(problems) > SHOWN:
        findings.append(Finding(file, f"... and {len(problems) - SHOWN} more such lines"))
    if data is not None:
        wanted = {example.id: None for example in data}
        for what, ids in (("no prediction for", [id for id in wanted if id not in labels]),
                          ("ids that its data file lacks:", [id for id in labels if id not in wanted])):
            if ids:
                some = ", ".join([*map(quoted, ids[:3]), "..."][:len(ids)])
                findings.append(Finding(file, f"{what} {some} ({len(ids)} of {len(data)})"))
    return Predictions(labels, findings)


def _decode(content: bytes) -> tuple[str, list[tuple[int, str]]]:
    """Return the text, and the problems of its bytes; they are repaired, so that the rest can be checked."""
    problems = []
    if content.startswith(b"\xef\xbb\xbf"):
        problems.append((1, "starts with a byte order mark: write it as plain UTF-8"))
        content = content[3:]
    if b"\r\n" in content:
        problems.append((1, r"has Windows line ends: open it for writing with newline='\n'"))
        content = content.replace(b"\r\n", b"\n")
    try:
        return content.decode("utf-8"), problems
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b"\n") + 1
        return content.decode("utf-8", errors="replace"), [*problems, (line, "not UTF-8")]


def advise(answers: Mapping[tuple[str, str], tuple[Mapping[str, int], list[Example]]]) -> Iterator[Finding]:
    """Yield advice on predictions: (part name, split) -> (id -> label, the examples, all of which have a label).

    Of a task, last-linear-layer comes before full-model, which should be better than it and not a copy of it.
    """
    accuracy: dict[str, float] = {}
    for (name, split), (labels, examples) in answers.items():
        part, file = PARTS[name], PARTS[name].predictions(split)
        said = set(labels.values())
        if len(said) == 1:
            yield Finding(file, f"says {said.pop()} for every row")
        elif unused := [label for label in range(part.task.num_labels) if label not in said]:
            yield Finding(file, f"never says {', '.join(map(str, unused))}")
        if split == "dev":
            accuracy[name] = sum(labels[example.id] == example.label for example in examples) / len(examples)
            low, high = BANDS[name]
            compared = f"dev accuracy {accuracy[name]:.3f}, with GPT-2 (124M) {low:.2f} to {high:.2f} is usual"
            if accuracy[name] == 1.0:
                yield Finding(file, "every dev row is right: were these rows trained on?")
            elif accuracy[name] < low - SLACK:
                yield Finding(file, f"{compared}: learning rate? causal mask?")
            elif accuracy[name] > high + SLACK:
                yield Finding(file, f"{compared}: were these rows trained on?")

        frozen = PARTS[f"{MODES[0]}-{part.task_name}"]
        if part == frozen or (frozen.name, split) not in answers:
            continue
        if labels == answers[frozen.name, split][0]:
            yield Finding(file, f"the same predictions as {frozen.predictions(split)}: a copy?")
        if split == "dev" and accuracy[name] <= accuracy[frozen.name]:
            yield Finding(file, f"dev accuracy {accuracy[name]:.3f} is no better than last-linear-layer's "
                                f"{accuracy[frozen.name]:.3f}: its learning rate should be near 1e-5")
