"""A run's folder: found, or told what is wrong with it; the classifier in it is the one that was trained."""

import json

import pytest
import torch
from torch import nn

from classifier import GPT2SentimentClassifier
from data.tokenizer import Tokenizer
from models.fine_tuned import SERVING, ModelFolderError
from serving import model_folder as module
from serving.find import NoModel, find
from serving.model_folder import build
from tests.finetuning.kinds import Plain
from tests.serving.conftest import write_model

IDS, MASK = torch.tensor([[5, 6, 7], [8, 9, 279]]), torch.tensor([[1, 1, 1], [1, 1, 0]])


def begun(path, **record):
    """A folder in which a run began."""
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"command": ["classifier.py", "--data", "own data"], "task": {},
                                               **record}))
    return path


def test_a_run_or_its_model_folder_will_do(model_folder):
    """Catches a copy of the model's folder that is good for nothing without the run around it."""
    run = model_folder[0]
    assert find(run) == find(str(run / "model")) == run / "model"


def test_the_classifier_is_the_one_that_was_written(model_folder):
    """Catches weights left at their initial values, in one another's place, or dropout that is on."""
    run, description, classifier = model_folder
    state = torch.get_rng_state()
    model = build(find(run))
    assert torch.equal(model.classifier(IDS, MASK), classifier(IDS, MASK))
    assert torch.equal(torch.get_rng_state(), state)  # a program's own random numbers stay what they are
    assert not any(parameter.requires_grad for parameter in model.classifier.parameters())
    assert model.description == description and set(model.head) == {"head.1.weight", "head.1.bias"}


def test_texts_are_read_as_in_training(model_folder, folder):
    """Catches a rule, the lower-casing or the longest length that only training applies."""
    tokenizer = Tokenizer.load(folder / "model")
    texts = ["  The Film is FINE\t", "good " * 50, "", "dull<|endoftext|>", '"a ""fine"" film"']
    expected = [*(text.strip() for text in texts[:4]), 'a "fine" film']
    assert build(find(model_folder[0])).encode(texts) == tokenizer.encode(expected, 24, lowercase=True).ids


def test_a_run_that_is_not_there(model_folder, tmp_path):
    """Catches a message that leaves the user to guess what there is."""
    runs = model_folder[0].parent
    with pytest.raises(NoModel, match=rf"no run folder .*nothing'; there are {runs}"):
        find(runs / "nothing")
    with pytest.raises(NoModel, match=r"no run folder .*x'; train one with classifier\.py"):
        find(tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(NoModel, match="no run folder"):
        find(tmp_path / "file")


@pytest.mark.parametrize("resumed", [False, True])
def test_an_unfinished_run_says_how_to_finish_it(tmp_path, resumed):
    """Catches a command that a shell would take apart, or --resume twice."""
    command = ["classifier.py", "--data", "own data", *["--resume"] * resumed]
    with pytest.raises(NoModel) as error:
        find(begun(tmp_path / "run", command=command))
    assert str(error.value).split("\n") == [
        f"'{tmp_path}/run' holds no model: the run is not finished",
        "Finish it with the same command and --resume: classifier.py --data 'own data' --resume"]


def test_a_run_that_ended_before_models_were_kept(tmp_path):
    """Catches a finished run that is called unfinished."""
    run = begun(tmp_path / "run")
    (run / "result.json").write_text("{}")
    with pytest.raises(NoModel, match="ended before its model was kept"):
        find(run)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"command": 3, "task": 1}', '{"command": [3], "task": 1}',
                                     "[" * 100_000])
def test_other_folders(tmp_path, content):
    """Catches a traceback for a folder that is no run's, or whose run.json was damaged."""
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(NoModel, match="is not the folder of a run"):
        find(tmp_path)


def test_a_pretraining_run(tmp_path):
    """Catches advice to resume a run that never gives a classifier."""
    run = begun(tmp_path / "run")
    (run / "run.json").write_text(json.dumps({"command": ["pretrain.py"], "settings": {}}))
    with pytest.raises(NoModel, match="holds a pretrained language model, not a classifier"):
        find(run)


class Other(GPT2SentimentClassifier):
    """The same weights, another function."""

    def forward(self, input_ids, attention_mask):
        return -super().forward(input_ids, attention_mask)


class Wider(GPT2SentimentClassifier):
    """One weight more."""

    def __init__(self, config):
        super().__init__(config)
        self.more = nn.Linear(2, 2)


@pytest.mark.parametrize("kind, words", [(Other, "was trained with other code"), (Wider, "its weight 'more"),
                                         (Plain, "does not fit the classifier in classifier")])
def test_other_code_is_refused(model_folder, monkeypatch, kind, words):
    """Catches predictions that look right and are another function's: the student went on writing after the run."""
    monkeypatch.setattr(module, "GPT2SentimentClassifier", kind)
    with pytest.raises(ModelFolderError, match=words):
        build(find(model_folder[0]))


def test_a_tokenizer_too_large_for_the_model(model_folder, monkeypatch, tmp_path):
    """Catches ids beyond the embedding, which would end in an IndexError."""
    monkeypatch.setattr(Tokenizer, "__len__", lambda self: 281)
    with pytest.raises(ModelFolderError, match="its tokenizer has 281 tokens, its model only 280"):
        build(find(model_folder[0]))


def test_a_classifier_of_another_make(folder, tmp_path, monkeypatch):
    """Catches names of our own classifier expected in a student's."""
    _, classifier = write_model(folder / "model", tmp_path / "model", Plain)
    monkeypatch.setattr(module, "GPT2SentimentClassifier", Plain)
    model = build(find(tmp_path))
    assert torch.equal(model.classifier(IDS, MASK), classifier(IDS, MASK))
    assert set(model.head) == {"linear.weight", "linear.bias"} and (tmp_path / "model" / SERVING).exists()
