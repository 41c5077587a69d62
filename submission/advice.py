"""Advice on correct prediction files that look odd. Advice does not block a submission."""

from collections import Counter
from collections.abc import Iterator, Mapping

from data.reader import Example
from submission.manifest import MODES, PARTS, SPLITS, Finding

BANDS: dict[str, tuple[float, float]] = {
    "last-linear-layer-sst": (0.44, 0.49),
    "full-model-sst": (0.50, 0.52),
    "last-linear-layer-cfimdb": (0.83, 0.89),
    "full-model-cfimdb": (0.96, 0.98),
}
"Lowest and highest dev accuracy of a dozen published solutions with GPT-2 (124M). Other backbones differ."

SLACK = 0.02
"Added to both ends of a band: about one standard error of a dev accuracy."


def advise(
    labels: Mapping[tuple[str, str], Mapping[str, int]], data: Mapping[tuple[str, str], list[Example]],
) -> Iterator[Finding]:
    """Yield advice on predictions.

    labels: (part name, split) -> id -> predicted label. data: (part name, split) -> the examples, all of which have a
    prediction.
    """
    accuracy: dict[str, float] = {}
    for (name, split), predicted in labels.items():
        part, file = PARTS[name], PARTS[name].predictions(split)
        counts = Counter(predicted.values())
        if len(counts) == 1:
            yield Finding(file, f"says {next(iter(counts))} for every row")
        elif unused := [label for label in range(part.task.num_labels) if label not in counts]:
            yield Finding(file, f"never says {', '.join(map(str, unused))}")
        if split == "dev":
            right = sum(predicted[example.id] == example.label for example in data[name, split])
            accuracy[name] = right / len(data[name, split])
            yield from _odd_accuracy(file, accuracy[name], *BANDS[name])

    for part in PARTS.values():
        if part.mode == "full-model":
            yield from _compare_modes(part.task_name, labels, accuracy)


def _odd_accuracy(file: str, accuracy: float, low: float, high: float) -> Iterator[Finding]:
    """Compare a dev accuracy with the usual ones."""
    usual = f"with GPT-2 (124M) {low:.2f} to {high:.2f} is usual"
    if accuracy == 1.0:
        yield Finding(file, "every dev row is right: were these rows trained on?")
    elif accuracy < low - SLACK:
        yield Finding(file, f"dev accuracy {accuracy:.3f}, {usual}: learning rate? causal mask?")
    elif accuracy > high + SLACK:
        yield Finding(file, f"dev accuracy {accuracy:.3f}, {usual}: were these rows trained on?")


def _compare_modes(task: str, labels: Mapping[tuple[str, str], Mapping[str, int]],
                   accuracy: Mapping[str, float]) -> Iterator[Finding]:
    """Compare full-model fine-tuning with the last linear layer: it should be better, and not a copy."""
    frozen, full = (f"{mode}-{task}" for mode in MODES)
    for split in SPLITS:
        if (full, split) in labels and labels[full, split] == labels.get((frozen, split)):
            other = PARTS[frozen].predictions(split)
            yield Finding(PARTS[full].predictions(split), f"the same predictions as {other}: a copy?")
    if frozen in accuracy and full in accuracy and accuracy[full] <= accuracy[frozen]:
        yield Finding(PARTS[full].predictions("dev"), f"dev accuracy {accuracy[full]:.3f} is no better than "
                      f"last-linear-layer's {accuracy[frozen]:.3f}: its learning rate should be near 1e-5")
