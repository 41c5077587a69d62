"""What a task's files hold, in lines to read before training."""

from collections import Counter
from collections.abc import Iterator, Sequence

from data.duplicates import near_duplicate_groups, repeated, same
from data.reader import Example
from data.tasks import Loaded
from data.tokenizer import Tokenizer

SOME_TEXTS, SOME_CHARACTERS = 200, 300  # what is enough to see whether a tokenizer knows a script
MOST_TOKENS_A_LETTER = 1.0  # English takes 0.25 with a tokenizer made for it


def report(loaded: Loaded, tokenizer: Tokenizer, max_length: int) -> Iterator[str]:
    """Yield lines on a task's files: rows, columns, labels, lengths in tokens, texts that would be cut, duplicates.

    max_length: the longest text in tokens that a run would read.
    """
    task = loaded.task
    yield from loaded.notes or (f"{split}: {len(rows):,} rows" for split, rows in loaded.examples.items())
    yield f"{'length in tokens':<18}{'least':>8}{'median':>8}{'95%':>8}{'most':>8}{f'over {max_length}':>18}"
    for split, rows in loaded.examples.items():
        lengths = sorted(map(len, tokenizer.encode([row.text for row in rows], 1 << 40, task.lowercase).ids))
        cut = sum(length > max_length for length in lengths)
        shown = (lengths[0], lengths[len(lengths) // 2], lengths[int(0.95 * (len(lengths) - 1))], lengths[-1])
        yield f"  {split:<16}" + "".join(f"{length:>8,}" for length in shown) + f"{cut:>10,} ({cut / len(rows):.0%})"
    for split, rows in loaded.examples.items():
        if line := unknown_script([row.text for row in rows], tokenizer, task.lowercase):
            yield f"{split}: {line}"
    yield from duplicates(loaded.examples)


def duplicates(examples: dict[str, Sequence[Example]]) -> Iterator[str]:
    """Yield lines on equal texts (but for case and white space) and near-duplicates, within splits and across."""
    texts = {split: [row.text for row in rows] for split, rows in examples.items()}
    for split, rows in texts.items():
        equal = len(rows) - len(set(map(same, rows)))
        yield f"{split}: {equal:,} texts repeat an earlier one"
        labels: dict[str, set] = {}
        for row in examples[split]:
            labels.setdefault(same(row.text), set()).add(row.label)
        if torn := sum(len(found) > 1 for found in labels.values()):
            yield f"{split}: {torn:,} texts occur with different labels"
    for split in ("dev", "test"):
        if split in texts:
            also = repeated(texts[split], texts["train"])
            yield f"{split}: {also:,} of {len(texts[split]):,} texts are also in train"

    where = [split for split, rows in texts.items() for _ in rows]
    groups = near_duplicate_groups([text for rows in texts.values() for text in rows])
    across = Counter(split for group in groups for split in {where[position] for position in group} - {"train"}
                     for position in group if where[position] == split
                     and any(where[other] == "train" for other in group))
    near = sum(len(group) for group in groups if len(group) > 1)
    crossing = "; ".join(f"{count:,} of {split} with one in train" for split, count in sorted(across.items()))
    yield f"near-duplicates: {near:,} texts have one{f', {crossing}' if crossing else ''}"


def unknown_script(texts: Sequence[str], tokenizer: Tokenizer, lowercase: bool) -> str | None:
    """Return a warning if a tokenizer spells the texts nearly byte by byte; None if it knows their script."""
    beginnings = [text[:SOME_CHARACTERS] for text in texts[:SOME_TEXTS]]
    tokens = sum(map(len, tokenizer.encode(beginnings, 1 << 40, lowercase).ids))
    letters = sum(len("".join(text.split())) for text in beginnings)
    words = sum(len(text.split()) for text in beginnings)
    if tokens - words <= MOST_TOKENS_A_LETTER * letters:  # a word may have a token of its own, such as its space
        return None
    return f"warning: {tokens / words:.1f} tokens a word: the tokenizer does not know this script"
