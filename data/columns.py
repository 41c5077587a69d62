"""Which column of somebody's own file holds the texts, the labels and the ids."""

from dataclasses import dataclass

from common.errors import quoted
from data.reader import ID, LABEL, SENTENCE, ColumnError
from data.records import Table

# Role -> the column names that say it, in any case; of several that are there the first is taken.
KNOWN = {
    "text": ("text", "sentence", "review", "content"),
    "label": ("label", "sentiment", "class", "target", "category"),
    "id": ("id",),
}
KNOWN_NAMES = [name for names in KNOWN.values() for name in names]
NO_IDS = "none"  # as the name of the id column: number the rows, whatever the file has
_ROLES = {"text": SENTENCE, "label": LABEL, "id": ID}  # the reader's words for them


@dataclass(frozen=True)
class Options:
    """What was said about files of your own; None is to find it out."""

    separator: str | None = None  # a character
    text_column: str | None = None
    label_column: str | None = None
    id_column: str | None = None  # NO_IDS to number the rows
    dev_share: float | None = None  # of the training file that becomes dev, where there is no dev file
    seed: int = 0  # decides which texts these are
    skip_empty: bool = False  # count rows without a text, where otherwise they are refused

    @property
    def known(self) -> list[str]:
        """All names by which a column may be found, in lower case."""
        given = (self.text_column, self.label_column, self.id_column)
        return [*KNOWN_NAMES, *(name.strip().lower() for name in given if name)]


def choose_columns(table: Table, options: Options, labelled: bool) -> dict[str, int]:
    """Return the position of the reader's columns in a table: SENTENCE, LABEL and ID, the last two if there are any.

    Raises ColumnError, which knows the column's role, where there is no such column, or two, and the labels' too if the
    file must be `labelled`.
    """
    positions = {role: _find(table, role, getattr(options, f"{role}_column")) for role in KNOWN}
    for role in ("text", "label") if labelled else ("text",):
        if positions[role] is None:
            raise _missing(table, role)
    return {_ROLES[role]: position for role, position in positions.items() if position is not None}


def describe_columns(table: Table, columns: dict[str, int]) -> str:
    """Say in a few words what a file is and which columns are read."""
    def name(role: str) -> str:
        return quoted(table.header[columns[role]].strip(), 30)

    labels = f", labels {name(LABEL)}" if LABEL in columns else ""
    ids = f"ids {name(ID)}" if ID in columns else "rows numbered"
    return f"{table.kind}: texts {name(SENTENCE)}{labels}, {ids}"


def _find(table: Table, role: str, given: str | None) -> int | None:
    """Return the position of a role's column, given by name or known; None where there is none."""
    found = [name.strip() for name in table.header]
    if role == "id" and given == NO_IDS:
        return None
    if given is not None:
        names, header = (given.strip(),), found
    else:
        names, header = KNOWN[role], [name.lower() for name in found]
    for name in names:
        if header.count(name) > 1:
            raise ColumnError(f"{table.path}:1: two columns are named {name!r}; {_names(table)}", role)
        if name in header:
            return header.index(name)
    if given is not None:
        raise ColumnError(f"{table.path}:1: no column is named {quoted(given)}; {_names(table)}", role)
    return None


def _missing(table: Table, role: str) -> ColumnError:
    """Return the error for a column that is needed and not there."""
    if len(table.header) == 1 and table.separator:
        return ColumnError(f"{table.path}: this is plain text or a table of one column, {quoted(table.header[0], 40)}; "
                           f"the first row must name a column of texts{' and one of labels' * (role == 'label')}", role)
    first, *others = KNOWN[role]
    return ColumnError(f"{table.path}:1: no column is named {first!r} (or {', '.join(others)}); {_names(table)}", role)


def _names(table: Table) -> str:
    names = ", ".join(name.strip() for name in table.header)
    return f"the first row must name the columns, here it names {quoted(names, 200)}"
