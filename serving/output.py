"""Print predictions: as text to read, as a table (tsv), or as JSON lines."""

import csv
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence

from common.errors import one_line
from common.terminal import Surviving, say
from finetuning.results import table_header, table_row
from serving.explain import Explanation
from serving.predictor import Prediction
from serving.texts import Row

WIDTH = 79


class Output:
    """Writes predictions to standard output, one after another, in one form: text, tsv or jsonl."""

    def __init__(self, form: str, label_names: Sequence[str]) -> None:
        self.form, self.label_names = form, label_names
        if not sys.stdout.isatty() and hasattr(sys.stdout, "reconfigure"):
            # What programs read is UTF-8 everywhere; what people read keeps the encoding they chose.
            sys.stdout.reconfigure(**({"errors": "backslashreplace"} if form == "text" else
                                      {"encoding": "utf-8", "newline": "\n"}))
        if form == "tsv":
            self._line(tab_separated(table_header(label_names)))

    def write(self, row: Row, prediction: Prediction, explanation: Explanation | None = None) -> None:
        """Write the prediction for one text."""
        if self.form == "tsv":
            self._line(tab_separated(table_row(row.id, prediction.label, prediction.probabilities,
                                               self.label_names)))
        elif self.form == "jsonl":
            self._line(self._json(row, prediction, explanation))
        else:
            say(self._text(row, prediction, explanation))

    def flush(self) -> None:
        """Flush what was written; BrokenPipeError if nobody reads it any more: no need to predict the rest."""
        sys.stdout.flush()
        if isinstance(sys.stdout, Surviving) and sys.stdout.lost is not None:
            sys.stdout.require_whole()

    def _line(self, line: str) -> None:
        if sys.stdout.isatty():
            say(line)  # nothing from a file repaints a terminal
        else:
            sys.stdout.write(line + "\n")

    def _json(self, row: Row, prediction: Prediction, explanation: Explanation | None) -> str:
        probabilities = {name: round(p, 6)
                         for name, p in zip(self.label_names, prediction.probabilities, strict=True)}
        record = {"id": row.id, "text": row.text, "label": prediction.label, "name": prediction.name,
                  "probabilities": probabilities}
        if explanation is not None:
            record |= {"blank": round(explanation.blank, 6), "error": round(explanation.error, 6),
                       "words": [[word, round(share, 6)] for word, share in explanation.words]}
        return json.dumps(record, ensure_ascii=False)

    def _text(self, row: Row, prediction: Prediction, explanation: Explanation | None) -> str:
        """Return the text on one line, then label and probabilities, the most probable first, then the words."""
        ranked = sorted(zip(prediction.probabilities, self.label_names, strict=True), key=lambda pair: -pair[0])
        lines = [textwrap.shorten(one_line(row.text.strip()), WIDTH, placeholder=" ...") or "(empty)"]
        lines += wrapped([f"{one_line(name)} {p:.3f}" for p, name in ranked])
        if explanation is not None:
            total = sum(share for _, share in explanation.words)
            lines += wrapped([f"{one_line(word, 40)} {share:+.3f}" for word, share in explanation.words])
            lines.append(f"  {one_line(prediction.name, 20)}: blank words {explanation.blank:.3f}, these words "
                         f"{total:+.3f}, together {explanation.blank + total:.3f}; error {explanation.error:+.0e}")
        return "\n".join(lines)


def wrapped(parts: Sequence[str]) -> list[str]:
    """Return lines of at most WIDTH characters with the parts, indented, and never broken inside."""
    lines, width = [], min(WIDTH, shutil.get_terminal_size().columns)
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f"   {part}"
        else:
            lines.append(f"  {part}")
    return lines


def tab_separated(fields: Sequence[object]) -> str:
    """Return one line of a tab separated table, with quotes where they are needed."""
    line = io.StringIO()
    csv.writer(line, delimiter="\t", lineterminator="").writerow(fields)
    return line.getvalue()
