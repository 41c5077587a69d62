"""How predict.py's parts are put together: texts in, predictions out, in order, a bounded number at a time."""

import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn

from common import cli
from common.student_files import explain_student_errors
from common.terminal import say
from serving.output import Output
from serving.predictor import Predictor
from serving.settings import Settings
from serving.texts import Row, read_texts
from training.memory import OutOfMemory
from training.parallel.process_group import DeviceError

ROWS, CHARACTERS = 1000, 2_000_000  # predicted together, texts of similar length in a batch


def main(settings: Settings, texts: list[str]) -> NoReturn:
    """Do what predict.py is asked to do; ends the process with its exit status."""
    cli.run(lambda: run(settings, texts))


def run(settings: Settings, texts: list[str]) -> None:
    """Predict every text, and print the predictions in their order."""
    with explain_student_errors(), cli.adding_advice({
            DeviceError: lambda error: "Use --device auto or --device cpu",
            OutOfMemory: lambda error: "Use --device cpu, or shorter texts"}):
        predictor = Predictor.load(settings.run, settings.device)
        output = Output(settings.output, predictor.label_names)

        # Where the texts come from. A person who types them wants each answer at once.
        typed = not texts and settings.file is None and sys.stdin.isatty()
        if typed:
            say("a text a line; Ctrl-D ends", error=True)
        rows = [Row(str(number), text, f"text {number}") for number, text in enumerate(texts, 1)] or read_texts(
            settings.file, settings.format, settings.text_column, settings.id_column)

        empty: list[str] = []
        shown = rows if sys.stdout.isatty() else cli.progress(rows, "predicting", "text")  # not between answers
        for part in parts(shown, 1 if typed else ROWS):
            empty += [row.place for row in part if not row.text.strip()][:6 - len(empty)]
            for row, prediction in zip(part, predictor.predict([row.text for row in part], bar=False), strict=True):
                output.write(row, prediction, predictor.explain(row.text) if settings.explain else None)
            output.flush()
        if empty:
            more = " and more" if len(empty) > 5 else ""
            say(f"empty texts ({', '.join(empty[:5])}{more}) have a label, too: what the model says of nothing",
                error=True)


def parts(rows: Iterable[Row], most: int) -> Iterator[list[Row]]:
    """Cut rows into lists of at most `most`, which end when they have CHARACTERS."""
    part, characters = [], 0
    for row in rows:
        part.append(row)
        characters += len(row.text)
        if len(part) == most or characters >= CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part
