"""Files of your own, read as they are: what was decided about them is kept, and said before training."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import fill
from typing import Any

from common.errors import one_line, quoted
from data import formats
from data.columns import Options, choose_columns, describe_columns
from data.duplicates import repeated, stratified_share
from data.labels import Labels, labels_of
from data.reader import LABEL, SENTENCE, ColumnError, Example, read_rows
from data.records import DataError, Table
from data.rules import Rules

MANY_LABELS, ROWS_A_LABEL = 50, 5  # more labels, with fewer rows each, are hardly labels
MOST_SHOWN = 20  # labels in the table


class ManyLabels(ColumnError):
    """A label column holds so many values that it is hardly one."""


@dataclass(frozen=True)
class OwnFiles:
    """The examples of a task's files, and what was found out about them."""

    examples: dict[str, list[Example]]  # train, dev and test, if there is one; its labels are None if it has none
    label_names: tuple[str, ...]  # one for each label, from 0 up
    spellings: tuple[str, ...]  # the same labels as the files spell them
    notes: tuple[str, ...]  # what to say before training, line by line
    decisions: dict[str, Any] = field(default_factory=dict)  # what makes a run on these files another run; for JSON


def read_own(paths: dict[str, Path], options: Options, num_labels: int | None, label_names: Sequence[str],
             rules: Rules) -> OwnFiles:
    """Read files of your own. Without paths["dev"], a share of the training file is dev.

    Raises DataError for whatever is wrong with a file; at most one fault, but all rows that have it.
    """
    tables = {split: read_table(path, options, split) for split, path in paths.items()}
    columns = {split: choose_columns(table, options, labelled=split != "test") for split, table in tables.items()}
    cells = {split: Counter(row[columns[split][LABEL]].strip() for _, row in table.rows
                            if len(row) > columns[split][LABEL])
             for split, table in tables.items() if LABEL in columns[split]}

    notes = []
    if options.skip_empty:
        for split, table in tables.items():
            tables[split], empty = without_empty(table, columns[split], rules)
            notes.append(f"{split}: {len(empty)} empty texts"
                         + f" (on {table.unit} {', '.join(map(str, empty[:10]))})" * bool(empty))

    # The labels of train and dev decide; the test file is only held to them.
    known = (cells["train"] + cells.get("dev", Counter())).keys()
    labels = labels_of(known, num_labels, label_names)
    declared = tables["train"].declared.get(tables["train"].header[columns["train"][LABEL]], ())
    if num_labels is None and not label_names and known - {""} <= set(declared):
        labels = Labels(None, declared, "as the data set lists them")
    if num_labels is None and not label_names:
        require_sensible(tables["train"], columns["train"], labels)

    notes += [f"{split}: {len(table.rows):,} rows, {describe_columns(table, columns[split])}"
              for split, table in tables.items()]
    examples = {}
    for split, table in tables.items():
        readable = split != "test" or all(labels.parse(cell) is not None for cell in cells.get("test", [""]))
        if not readable and any(cells.get("test", ())):
            wrong = next(cell for cell in cells["test"] if labels.parse(cell) is None)
            notes.append(f"test: {quoted(wrong, 30)} is not a label of the training file, so test is not scored")
        examples[split] = read_rows(table, columns[split], labels if readable else None, rules)
    if "dev" not in paths:
        notes.append(divide(examples, paths["train"], options))

    spellings, names = spelled(labels, known, label_names)
    decisions = {"files": {split: [table.kind, columns[split]] for split, table in tables.items()},
                 "labels": list(spellings), "dev share": options.dev_share, "seed": options.seed}
    notes += label_table(examples, names or spellings, labels.how)
    notes += warnings(examples, names or spellings)
    return OwnFiles(examples, names, spellings, tuple(fill(note, 79, subsequent_indent="  ") for note in notes),
                    decisions)


def read_table(path: Path, options: Options, split: str) -> Table:
    """Read a file as a table with all its rows. A test file that is plain text has one text a line."""
    table = formats.read_table(path, options.separator, options.known, split)
    known = {name.strip().lower() for name in table.header} & set(options.known)
    if split == "test" and path.name.removesuffix(".gz").endswith(".txt") and table.separator and not known:
        table = formats.lines(path)
    table = replace(table, rows=list(table.rows))
    if not table.rows:
        raise DataError(f"{path}: the file holds column names but no rows")
    return table


def without_empty(table: Table, columns: dict[str, int], rules: Rules) -> tuple[Table, list[int]]:
    """Return a table without the rows whose text is empty, and these rows' numbers."""
    position = columns[SENTENCE]
    empty = {number for number, row in table.rows if len(row) > position and not rules(row[position]).strip()}
    return replace(table, rows=[row for row in table.rows if row[0] not in empty]), sorted(empty)


def require_sensible(table: Table, columns: dict[str, int], labels: Labels) -> None:
    """Raise an error unless there are two labels or more, and so few that they can be labels."""
    where, count = f"{table.path}: {table.column(columns[LABEL])}", len(labels.names)
    if count < 2:
        found = f"every row holds {quoted(labels.names[0])}" if count else "every row is empty"
        raise ColumnError(f"{where}{found}; at least two different labels are needed", "label")
    if count > MANY_LABELS and len(table.rows) < ROWS_A_LABEL * count:
        raise ManyLabels(f"{where}{count:,} different values in {len(table.rows):,} rows, such as "
                         f"{quoted(labels.names[0], 40)}: are these labels?", "label")


def divide(examples: dict[str, list[Example]], path: Path, options: Options) -> str:
    """Move a share of train to dev, and say how many texts that is. DataError if there are too few."""
    rows = examples["train"]
    chosen = set(stratified_share([row.text for row in rows], [row.label for row in rows], options.dev_share,
                                  options.seed))
    if not chosen or len(chosen) == len(rows):
        raise DataError(f"{path}: {len(rows)} rows, too few different ones to take dev texts from; give a dev file")
    examples["train"] = [row for position, row in enumerate(rows) if position not in chosen]
    examples["dev"] = [rows[position] for position in sorted(chosen)]
    return (f"dev: {len(chosen):,} of these rows (share {options.dev_share:g} of each label, seed {options.seed}, "
            "near-duplicates together)")


def spelled(labels: Labels, cells: Sequence[str], given: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return how the files spell each label, and its name: as given, or the same; none for plain 0 to N - 1."""
    numbers = tuple(map(str, range(labels.count)))
    by_number = labels.integers and all(cell.isdigit() or not cell for cell in cells)
    spellings = numbers if by_number or not labels.names else labels.names
    return spellings, tuple(given) or (spellings if spellings != numbers else ())


def label_table(examples: dict[str, list[Example]], names: Sequence[str], how: str) -> Iterator[str]:
    """Yield a table of the labels with their numbers of rows; of many, the first."""
    splits = [split for split in examples if all(row.label is not None for row in examples[split])]
    counts = {split: Counter(row.label for row in examples[split]) for split in splits}
    yield f"{f'label, {how}':<40}" + "".join(f"{split:>10}" for split in splits)
    for label, name in enumerate(names[:MOST_SHOWN]):
        yield f"  {label:<4}{one_line(name, 30):<34}" + "".join(f"{counts[split][label]:>10,}" for split in splits)
    if len(names) > MOST_SHOWN:
        yield f"  ... and {len(names) - MOST_SHOWN} more"


def warnings(examples: dict[str, list[Example]], names: Sequence[str]) -> Iterator[str]:
    """Yield a line for everything in the files that would spoil a result in silence."""
    def called(label: int) -> str:
        return quoted(names[label], 40)

    in_train = Counter(row.label for row in examples["train"])
    for label, count in sorted(Counter(row.label for row in examples["dev"]).items()):
        if label not in in_train:
            yield f"warning: train lacks the label {called(label)} of {count} dev rows; it cannot be learnt"
    for label in range(len(names)):
        if label not in in_train and all(row.label != label for row in examples["dev"]):
            yield f"warning: the label {called(label)} never occurs"
    folded = Counter(name.casefold() for name in names)
    for label, name in enumerate(names):
        if folded[name.casefold()] > 1:
            yield f"warning: the label {called(label)} differs from another in upper and lower case only"

    texts = {split: [row.text for row in rows] for split, rows in examples.items()}
    for split in ("dev", "test"):
        if split in texts and (count := repeated(texts[split], texts["train"])):
            yield (f"warning: {count:,} of {len(texts[split]):,} {split} texts are also in train: "
                   "the score will be too good")
