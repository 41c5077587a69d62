"""What the tests of this room share: a classifier with random weights, in a model folder."""

from types import SimpleNamespace

import pytest
import torch

from classifier import GPT2SentimentClassifier
from data.tokenizer import Tokenizer
from finetuning.model import Model
from models import fine_tuned
from models.gpt2 import GPT2Model
from models.pretrained import backbone_given, load, read_config
from tests.finetuning.test_run import folder  # noqa: F401 (a fixture)

NAMES = ("terrible", "so so", "wonderful")


def write_model(backbone, path, kind=GPT2SentimentClassifier, **changes):
    """Write a classifier of random weights on a backbone's folder; returns its description and the classifier."""
    config, tokenizer = read_config(backbone), Tokenizer.load(backbone)
    gpt = load(GPT2Model, backbone, config)
    torch.manual_seed(3)
    arguments = {"num_labels": len(NAMES), "hidden_size": config.hidden_size, "hidden_dropout_prob": 0.4,
                 "fine_tune_mode": "full-model"}
    with backbone_given(GPT2Model, gpt):
        classifier = kind(SimpleNamespace(**arguments))
    model = Model(classifier, gpt, "", features_will_do=False)
    description = fine_tuned.Description(**{
        "task": "own", "label_names": NAMES, "spellings": ("1", "2", "3"), "lowercase": True,
        "rules": ("strip", "unquote-again"),
        "max_length": 24, "keep_end": False, "fine_tune_mode": "full-model", "dropout": 0.4, "backbone": model.place,
        "answers": tuple(map(tuple, model.answers(config).tolist())), **changes})
    fine_tuned.write(path, description, config, model.weights(), tokenizer.files(24))
    return description, classifier.eval()




@pytest.fixture(scope="module")
def model_folder(folder, tmp_path_factory):  # noqa: F811
    """(run folder, description, the classifier that was written)."""
    run = tmp_path_factory.mktemp("run")
    return (run, *write_model(folder / "model", run / "model"))
