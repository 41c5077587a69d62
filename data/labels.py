"""Labels: which cells of a label column mean which number from 0 up."""

import re
from collections.abc import Iterable, Sequence

from common.errors import quoted

_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)


class Labels:
    """The cells that a label column may hold: integers from 0 to count - 1, names, or both.

    If the names look like integers, only names are read.
    """

    def __init__(self, num_labels: int | None, names: Sequence[str] | None, how: str = "as declared") -> None:
        """num_labels is by default the number of names; without names, any integer from 0 will do."""
        self.names = tuple(names or ())
        self.by_name = {name: label for label, name in enumerate(self.names)}
        self.count = num_labels if num_labels is not None else len(self.names) or None
        self.integers = not any(re.fullmatch("[0-9]+", name) for name in self.names)
        self.how = how  # in which order the labels have their numbers, in words

    @property
    def wanted(self) -> str:
        """What a cell must be, for a message."""
        integer = f"an integer from 0 to {self.count - 1}" if self.count else "an integer from 0"
        shown = [quoted(name, 40) for name in self.names[:20]] + ["..."] * (len(self.names) > 20)
        return " or ".join([integer] * self.integers + [f"one of {', '.join(shown)}"] * bool(shown))

    def parse(self, cell: str) -> int | None:
        """Return the label in `cell`; None for a wrong one."""
        if cell in self.by_name:
            return self.by_name[cell]
        # At most nine digits: nobody has more labels, and int() refuses very long numbers.
        if not self.integers or not re.fullmatch("[0-9]{1,9}", cell):
            return None
        label = int(cell)
        return label if self.count is None or label < self.count else None


def labels_of(cells: Iterable[str], num_labels: int | None = None, names: Sequence[str] = ()) -> Labels:
    """Return the labels for the cells of somebody's own label column, empty ones left out.

    Numbers are ordered by value, so that 1 to 5 become 0 to 4 and -1 / 1 become 0 / 1; two spellings of one number (1
    and 1.0) are one label. Other cells are ordered by the alphabet, so false comes before true. What was declared comes
    first: integers below num_labels keep their value, names are numbered as given, and names for other cells name them
    in this order. Cells that do not fit what was declared are left for `parse` to refuse.
    """
    cells = sorted({cell for cell in cells if cell})
    if num_labels or names:
        declared = Labels(num_labels, names)
        if all(declared.parse(cell) is not None for cell in cells):
            return declared
    spellings, by_cell, how = _ordered(cells)

    count = num_labels or len(names) or None
    if count is not None and len(spellings) != count and spellings != _among(count, spellings):
        return declared
    if count is not None and any(cell in names for cell in cells):
        return declared  # some cells are names, some are not: a mistake, not another spelling
    if count is not None and len(spellings) < count:  # 1 to count, some missing
        spellings = [str(number) for number in range(1, count + 1)]
        by_cell = {cell: int(float(cell)) - 1 for cell in cells}

    found = Labels(None, spellings, how)
    found.by_name, found.integers = by_cell, False
    return found


def _among(count: int, spellings: list[str]) -> list[str]:
    """Return those of the spellings that are integers from 1 to count."""
    return [spelling for spelling in spellings if re.fullmatch("[0-9]{1,9}", spelling) and 1 <= int(spelling) <= count]


def _ordered(cells: list[str]) -> tuple[list[str], dict[str, int], str]:
    """Return the labels' spellings in order, the label of each cell, and the order in words."""
    if cells and all(_NUMBER.fullmatch(cell) for cell in cells):
        values = sorted({float(cell) for cell in cells})
        label = {value: number for number, value in enumerate(values)}
        spellings = [min((cell for cell in cells if float(cell) == value), key=len) for value in values]
        return spellings, {cell: label[float(cell)] for cell in cells}, "in order of their value"
    cells = sorted(cells, key=lambda cell: (cell.casefold(), cell))
    return cells, {cell: number for number, cell in enumerate(cells)}, "in alphabetical order"
