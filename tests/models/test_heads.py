"""Checkpoints with a head: the backbone is taken, and what is left of them is told."""

import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models.gpt2 import GPT2Model
from models.heads import SCORE, heads, read_score
from models.hub import PretrainedError, fine_tune_like, resolve
from models.pretrained import save_pretrained
from sanity.checks import randomise

IDS, LABELS = torch.arange(20).view(2, 10), {0: "bad", 1: "so so", 2: "good"}


def saved(kind, path, **more):
    """A small model of one of Hugging Face's classes, and the names of its tensors that are no GPT-2's."""
    transformers.logging.disable_progress_bar()
    config = transformers.GPT2Config(n_embd=32, n_head=2, n_layer=2, vocab_size=61, n_positions=12, bos_token_id=0,
                                     eos_token_id=0, pad_token_id=1, id2label=LABELS, **more)
    model = randomise(kind(config), scale=0.2).eval()
    model.save_pretrained(path)
    return model


@pytest.mark.parametrize("kind, more, names", [
    (transformers.GPT2LMHeadModel, {}, []),
    (transformers.GPT2Model, {}, []),
    (transformers.GPT2LMHeadModel, {"tie_word_embeddings": False}, ["lm_head.weight"]),
    (transformers.GPT2ForSequenceClassification, {}, ["score.weight"]),
    (transformers.GPT2ForTokenClassification, {}, ["classifier.bias", "classifier.weight"]),
    (transformers.GPT2ForQuestionAnswering, {}, ["qa_outputs.bias", "qa_outputs.weight"]),
    (transformers.GPT2DoubleHeadsModel, {},
     ["multiple_choice_head.summary.bias", "multiple_choice_head.summary.weight"]),
], ids=lambda value: getattr(value, "__name__", None))
def test_the_backbone_of_every_class_is_taken(kind, more, names, tmp_path):
    """Catches a folder refused though the backbone is in it, and a head that is left without a word."""
    model = saved(kind, tmp_path, **more)
    theirs = getattr(model, "transformer", model)
    ours = GPT2Model.from_pretrained(str(tmp_path))
    with torch.no_grad():
        want, got = theirs(IDS).last_hidden_state, ours(IDS, torch.ones_like(IDS))["last_hidden_state"]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert heads(tmp_path) == names


def test_a_classification_head(tmp_path):
    """Catches rows in another order than the labels' names, and a head made up where there is none."""
    model = saved(transformers.GPT2ForSequenceClassification, tmp_path / "a")
    weight, names = read_score(tmp_path / "a")
    assert torch.equal(weight, model.score.weight) and names == tuple(LABELS.values())
    saved(transformers.GPT2ForTokenClassification, tmp_path / "b")
    with pytest.raises(PretrainedError, match=r"no classification head to keep: it holds no score\.weight"):
        read_score(tmp_path / "b")


@pytest.mark.parametrize("weight", [torch.ones(3), torch.full((3, 32), float("nan"))], ids=["a vector", "NaN"])
def test_a_damaged_head(weight, tmp_path):
    """Catches numbers that are none on their way into a classifier."""
    saved(transformers.GPT2ForSequenceClassification, tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), SCORE: weight}, file)
    with pytest.raises(PretrainedError, match="must be a matrix of finite numbers"):
        read_score(tmp_path)


def test_pickled_weights_and_the_line_that_converts_them(tmp_path):
    """Catches advice that does not work: the line is run, and then the folder is read."""
    model = saved(transformers.GPT2LMHeadModel, tmp_path / "it's here")
    folder = tmp_path / "it's here"
    torch.save(model.state_dict(), folder / "pytorch_model.bin")  # with the embedding in it twice, tied
    (folder / "model.safetensors").unlink()
    with pytest.raises(PretrainedError, match=r"its pytorch_model\.bin is not read, because a pickle can run") as error:
        resolve(folder)
    line = str(error.value).split("\n")[1]
    assert line.startswith("python -c ")
    subprocess.run(line.replace("python", sys.executable, 1), shell=True, check=True)
    ours = GPT2Model.from_pretrained(str(folder))
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS, torch.ones_like(IDS))["last_hidden_state"],
                                   model.transformer(IDS).last_hidden_state, atol=1e-5, rtol=1e-5)


def test_whose_settings_suit_a_model(root, tmp_path):
    """Catches a note that is lost on the way through this program or through Hugging Face's, and one made up."""
    assert fine_tune_like("gpt2-tiny") == fine_tune_like(root / "models" / "gpt2-tiny") == "gpt2-tiny"
    gpt = GPT2Model.from_pretrained("gpt2-tiny")
    save_pretrained(gpt, tmp_path / "without")
    save_pretrained(gpt, tmp_path / "with", like="gpt2-tiny")
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "with").save_pretrained(tmp_path / "theirs")
    assert [fine_tune_like(tmp_path / name) for name in ("without", "with", "theirs")] == [None, *["gpt2-tiny"] * 2]
    (tmp_path / "with" / "config.json").write_text('{"fine_tune_like": ["gpt2-tiny"]}')
    assert fine_tune_like(tmp_path / "with") is None
    with pytest.raises(PretrainedError, match="no model folder"):
        fine_tune_like(tmp_path / "nothing")
