"""docs/tour.ipynb: every cell runs, what its words say is so, and its outputs are of these cells."""

import base64
import itertools
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError

from tests import tour
from training.evaluate import Score

pytestmark = pytest.mark.timeout(1200)  # most of it is training: a minute, if the machine does nothing else
NUMBER = re.compile(r"-?\d*\.\d+|\d+")
VALUES = """
import json

gpt = GPT2Model.from_pretrained("gpt2-tiny")  # part 3 has changed the first one
print(json.dumps({
    "paths": {name: points.tolist() for name, points in paths.items()}, "tokens": tokens, "weights": weights.tolist(),
    "first_layer": attention_weights(gpt.gpt_layers[0], ids).tolist(), "losses": losses, "accuracies": accuracies,
    "words": words, "shares": [share.tolist() for share in shares], "names": names,
    "positive": [answer.probabilities[1] for answer in model.predict(texts)],
    "missed": [answer.label for answer in model.predict([dev[id].text for id in (
        "f3b3902167c8a8654f5f633f0", "f7f08decd37ce582efe94a200")])]}))
"""


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    """The notebook as it is committed."""
    return tour.read()


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nbformat.NotebookNode, dict]:
    """The notebook run now, in docs/, and the values that its words speak of."""
    notebook, scratch = tour.read(), tmp_path_factory.mktemp("tour")
    before = sorted(tour.TOUR.parent.rglob("*"))
    notebook.cells.append(nbformat.v4.new_code_cell(VALUES))
    tour.execute(notebook, scratch)
    assert sorted(tour.TOUR.parent.rglob("*")) == before, "the tour writes into docs/"
    values = json.loads(notebook.cells.pop().outputs[0].text)
    return notebook, values


@pytest.fixture(scope="module")
def values(executed: tuple[nbformat.NotebookNode, dict]) -> dict:
    return executed[1]


def said(notebook: nbformat.NotebookNode, name: str) -> str:
    """The text of a cell, on one line."""
    return " ".join(next(cell.source for cell in notebook.cells if cell.id == name).split())


def printed(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """What each cell printed on standard output, by the cell's name."""
    return {cell.id: "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
            for cell in notebook.cells if cell.cell_type == "code"}


def test_the_outputs_are_of_these_cells(committed: nbformat.NotebookNode, executed: tuple) -> None:
    """Catches a cell that was changed, or a file it calls, and outputs that were not made anew: `-m tests.tour`."""
    assert committed.metadata["outputs_of"] == tour.fingerprint(committed)
    then, now = printed(committed), printed(executed[0])
    assert {name: NUMBER.sub("#", text).split() for name, text in then.items()} == \
           {name: NUMBER.sub("#", text).split() for name, text in now.items()}


def test_every_cell_ran_in_order_and_complained_of_nothing(committed: nbformat.NotebookNode, executed: tuple) -> None:
    """Catches outputs of cells that were run by hand in another order, warnings, and figures that are missing."""
    for notebook in (committed, executed[0]):
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        kinds = {cell.id: [output.get("name") or output.output_type for output in cell.outputs] for cell in cells}
        assert {kind for some in kinds.values() for kind in some} <= {"stdout", "display_data"}
        assert all(kinds[name] == ["display_data"] for name in kinds if "plt.show()" in said(notebook, name))


def test_the_paths_are_as_described(committed: nbformat.NotebookNode, values: dict) -> None:
    """Catches a description of other paths than the figure shows."""
    text, ends = said(committed, "path-answer"), {name: path[-1] for name, path in values["paths"].items()}
    sgd, adam, adamw = ends.values()
    assert "0.995" in text and "0.17" in text and adam == pytest.approx([0.995, 0.17], abs=0.005)
    assert sgd == pytest.approx(adam, abs=0.07)
    assert "about a tenth from each weight" in text and all(0.05 < 1 - weight < 0.15 for weight in adamw)
    walls = [x - 1 for x, _ in values["paths"]["SGD, coupled"][:20]]
    assert all(one * other < 0 for one, other in itertools.pairwise(walls))


def test_the_maps_are_as_described(committed: nbformat.NotebookNode, values: dict) -> None:
    """Catches maps that are no attention weights, and heads that do something else than is said of them."""
    text, tokens, weights = said(committed, "attention-answer"), values["tokens"], np.array(values["weights"])
    assert weights.shape == (5, 12, 12) and weights.sum(axis=-1) == pytest.approx(1, abs=1e-5)
    assert not np.triu(weights, 1).any()
    row = {token: number for number, token in enumerate(tokens)}  # the last of its name
    turn, after = row["but"], [row["film"], row["is"]]
    assert not weights[0].argmax(axis=1).any()
    assert all(weights[head, i].argmax() == turn for head in (1, 3) for i in after)
    assert "with a weight of 0.7" in text and weights[1, after, turn] == pytest.approx(0.7, abs=0.05)
    assert "with a weight of 0.6" in text and weights[1, row["dull"], row["never"]] == pytest.approx(0.6, abs=0.05)
    first = np.array(values["first_layer"])  # in the exercises: one head looks at the token just before
    assert [bool(np.diagonal(head, -1).min() > 0.9) for head in first].count(True) == 1
    assert "does head 1 still find `never`" in said(committed, "try")


def test_the_training_is_as_described(committed: nbformat.NotebookNode, executed: tuple, values: dict) -> None:
    """Catches a model that does not learn, and words that promise more than the curve shows."""
    text, accuracies = said(committed, "training-answer"), values["accuracies"]
    losses = np.array(values["losses"]).reshape(3, -1).mean(axis=1)
    assert "a little above log 5 = 1.61" in text and 1.61 < np.mean(values["losses"][:5]) < 2.2
    assert all(np.diff(losses) < 0) and losses[2] < losses[0] / 2
    assert accuracies[0] < 0.3 and accuracies[1] > 1.5 * accuracies[0] and accuracies[3] - accuracies[1] < 0.2
    assert "from 0.41 to 0.59" in text
    assert Score(0.5, 0.0, 120).interval == pytest.approx((0.41, 0.59), abs=0.005)
    rows = printed(executed[0])["predictions"].splitlines()
    assert [re.split(r"\s{2,}|\s(?=\d)", row)[0] for row in rows] == ["very negative", "positive", "very negative"]


def test_the_pair_is_as_described(committed: nbformat.NotebookNode, values: dict) -> None:
    """Catches an explanation that the changes, one by one, do not bear out."""
    negative, positive = (dict(zip(range(99), share, strict=False)) for share in values["shares"])
    words, probabilities, names = values["words"], values["positive"], values["names"]
    steps = dict(zip(names[1:], np.diff(probabilities), strict=True))
    largest = sorted(steps, key=steps.get)[:-4:-1]
    assert largest == ["so-called -> delicious", "shouted, repeated -> underplayed, varied",
                       "goes nowhere, -> pays off,"]
    assert all(abs(step) < 0.08 for name, step in steps.items() if name not in largest)
    at = names.index(largest[0])
    assert probabilities[at - 1:at + 2] == pytest.approx([0.1, 0.4, 0.6], abs=0.05)
    assert probabilities[0] < 0.2 and probabilities[-1] > 0.6 and abs(steps["clown. -> night."]) < 0.04
    assert words[0][min(negative, key=negative.get)] == "so-called"
    assert words[1][max(positive, key=positive.get)] == "delicious"
    assert positive[len(words[1]) - 1] < negative[len(words[0]) - 1] < -0.02
    assert positive[words[1].index("circus")] > 2 * negative[words[0].index("circus")] > 0.05
    assert values["missed"] == [1, 1] and "calls both positive" in said(committed, "try")


def test_the_file_is_small_and_says_nothing_of_the_machine(committed: nbformat.NotebookNode) -> None:
    """Catches large figures, paths and dates of the machine that ran it, and cells that no one can read or name."""
    assert tour.TOUR.stat().st_size < 400_000
    for cell in committed.cells:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cell.id)
        assert not {"execution", "timestamp"} & set(cell.metadata)
        lines = cell.source.splitlines()
        assert cell.cell_type == "markdown" or len(lines) <= 14, cell.id
    assert len({cell.id for cell in committed.cells}) == len(committed.cells)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users|var)\b|[A-Z]:\\", " ".join(printed(committed).values()))
    for cell in committed.cells:
        for output in cell.get("outputs", []):
            figure = base64.b64decode(output.get("data", {}).get("image/png", ""))
            assert b"tIME" not in figure and b"Creation" not in figure


def test_a_cell_that_fails_is_noticed(tmp_path: Path) -> None:
    """Catches a runner that goes on after an error."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        tour.execute(notebook, tmp_path)
