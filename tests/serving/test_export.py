"""Exported folders: transformers' pipeline says what the trained model says; what cannot be exported is refused."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from classifier import GPT2SentimentClassifier
from common import cli
from common.errors import UserError
from finetuning.model import keep_head
from finetuning.settings import Settings as Training
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from models.pretrained import PretrainedError, backbone_given, load, read_config, save_pretrained
from serving import export
from serving import model_folder as module
from serving.card import without_folder
from serving.export import pipeline_probabilities, probabilities
from serving.export_settings import WRITTEN, Settings
from serving.hugging_face import NotLinear, fold, linear_head
from serving.model_folder import build
from tests.finetuning.kinds import LastPosition, Mean, Plain
from tests.finetuning.test_run import finish
from tests.serving.conftest import NAMES, write_model

ODD = ["", "   \t ", "A Good FILM", "good<|endoftext|>bad", "<|pad|>", "good " * 60, '"a ""good"" film"',
       "caf\x96 <br />", "\u4e2d\u6587 \U0001f600", ". .", "bad"]
WHOLE = WRITTEN - {"model.onnx"}


def export_to(out, run, **more):
    Settings(run=run, out=out, **more).check()
    export.run(Settings(run=run, out=out, **more))
    return out


@pytest.fixture(scope="module")
def exported(model_folder, tmp_path_factory):
    """The folder that the shared model is exported to."""
    return export_to(tmp_path_factory.mktemp("exported") / "out", model_folder[0])


class Two(Plain):
    """A head of two linear layers, which is a linear map, too."""

    def __init__(self, config):
        super().__init__(config)
        self.linear = nn.Sequential(nn.Linear(config.hidden_size, 5), nn.Dropout(0.5), nn.Linear(5, config.num_labels))


class Relu(Plain):
    """A head that is not linear."""

    def __init__(self, config):
        super().__init__(config)
        self.linear = nn.Sequential(nn.Linear(config.hidden_size, 9), nn.ReLU(), nn.Linear(9, config.num_labels))


class Normed(Plain):
    """Another one."""

    def __init__(self, config):
        super().__init__(config)
        self.linear = nn.Sequential(nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, config.num_labels))


class Equal(Plain):
    """A linear head whose rows are the same, with a bias that they cannot make up."""

    def __init__(self, config):
        super().__init__(config)
        with torch.no_grad():
            self.linear.weight[:] = self.linear.weight[0].clone()
            self.linear.bias[:] = torch.arange(3.0)


# ---- the same probabilities ------------------------------------------------------------------------------------------


def test_the_pipeline_says_the_same(exported, model_folder):
    """Catches a bias, a rule, the lower-casing or the longest length lost on the way; padding that is read."""
    texts = [text for text in ODD if text]  # transformers cannot read nothing at all
    want = probabilities(build(model_folder[0] / "model"), texts)
    assert (pipeline_probabilities(exported, texts) - want).abs().max() < 1e-5
    assert (pipeline_probabilities(exported, texts[:1]) - want[:1]).abs().max() < 1e-5
    assert want.max(dim=0).values.min() > 0.34  # texts differ: every label wins somewhere, or nearly


def test_what_is_written(exported, model_folder):
    """Catches files that transformers would read in another way: eos as padding, no names, half precision."""
    assert {path.name for path in exported.iterdir()} == WHOLE
    config = json.loads((exported / "config.json").read_text())
    size = model_folder[1].num_labels
    assert config["architectures"] == ["GPT2ForSequenceClassification"]
    assert config["problem_type"] == "single_label_classification" and config["dtype"] == "float32"
    assert config["id2label"] == dict(zip(map(str, range(size)), NAMES, strict=True))
    assert config["label2id"] == {name: label for label, name in enumerate(NAMES)}
    assert config["pad_token_id"] not in (config["eos_token_id"], None)
    tensors = load_file(exported / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert len(tensors["transformer.wte.weight"]) == config["vocab_size"] == 282
    assert tensors["score.weight"].shape == (3, 32)


@pytest.mark.parametrize("kind", [Plain, Two])
def test_heads_of_other_makes(kind, folder, tmp_path, monkeypatch):
    """Catches a head read by the names that ours has."""
    write_model(folder / "model", tmp_path / "model", kind)
    monkeypatch.setattr(module, "GPT2SentimentClassifier", kind)
    out = export_to(tmp_path / "out", tmp_path)
    want = probabilities(build(tmp_path / "model"), ODD[1:])
    assert (pipeline_probabilities(out, ODD[1:]) - want).abs().max() < 1e-5


@pytest.mark.parametrize("kind, words", [
    (Relu, "is not linear"), (Normed, "is not linear"), (Mean, "reads more of GPT-2 than each text's last_token"),
    (LastPosition, "reads more of GPT-2"), (Equal, "rows of the head's weight depend on each other")])
def test_what_hugging_face_cannot_hold_is_refused(kind, words, folder, tmp_path, monkeypatch):
    """Catches an export of another function, and a folder left half-written."""
    write_model(folder / "model", tmp_path / "model", kind)
    monkeypatch.setattr(module, "GPT2SentimentClassifier", kind)
    with pytest.raises(NotLinear, match=words) as error:
        export_to(tmp_path / "out", tmp_path)
    assert str(error.value).split("\n")[1:] == ["--format onnx takes any head"]
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(2, 10), st.integers(0, 2**31), st.floats(-3, 3))
def test_a_bias_goes_into_the_input_or_is_refused(labels, C, seed, size):
    """Catches a pseudo-inverse taken where no vector gives the bias: more labels than channels."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(labels, C, generator=generator, dtype=torch.float64)
    bias = 10**size * torch.randn(labels, generator=generator, dtype=torch.float64)
    if labels <= C:
        torch.testing.assert_close(weight @ fold(weight, bias), bias, rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises(NotLinear):
            fold(weight, bias + 1)
    assert fold(torch.zeros(labels, C, dtype=torch.float64), 0 * bias).abs().max() == 0


def test_the_linear_map_is_the_heads(model_folder):
    """Catches rounding as large as the smallest weights: weight and bias come back to seven digits."""
    model = build(model_folder[0] / "model")
    weight, bias = linear_head(model)
    torch.testing.assert_close(weight, model.head["head.1.weight"].double(), rtol=3e-7, atol=1e-9)
    torch.testing.assert_close(bias, model.head["head.1.bias"].double(), rtol=3e-7, atol=1e-9)


def test_another_gpt2_than_theirs_is_not_kept(model_folder, tmp_path, monkeypatch):
    """Catches a student's GPT-2 with another activation, exported as if it were Hugging Face's."""
    monkeypatch.setattr(export, "pipeline_probabilities", lambda folder, texts: torch.full((len(texts), 3), 1 / 3))
    with pytest.raises(UserError, match="gives other probabilities, by up to 0"):
        export_to(tmp_path / "out", model_folder[0])
    assert not list(tmp_path.iterdir())


def test_without_transformers(model_folder, tmp_path, monkeypatch, capsys):
    """Catches a comparison that is claimed and was never made."""
    monkeypatch.setattr(export, "pipeline_probabilities", lambda folder, texts: None)
    export_to(tmp_path / "out", model_folder[0])
    assert "not compared: the package transformers is not installed" in capsys.readouterr().out


# ---- and back --------------------------------------------------------------------------------------------------------


def classifier_on(folder, labels=3, kind=GPT2SentimentClassifier):
    gpt = load(GPT2Model, folder, read_config(folder))
    with backbone_given(GPT2Model, gpt):
        return kind(SimpleNamespace(num_labels=labels, hidden_size=32, hidden_dropout_prob=0.1,
                                    fine_tune_mode="full-model")).eval(), gpt


IDS = torch.arange(40).view(2, 20)


@pytest.mark.parametrize("names, order, said", [
    (NAMES, [0, 1, 2], ""), ((), [0, 1, 2], ""), (("Wonderful", "TERRIBLE", "so so"), [2, 0, 1], ""),
    (("x", "y", "z"), [0, 1, 2], "the head's labels are 'terrible', 'so so', 'wonderful'; here they are 'x', 'y'")])
def test_the_head_comes_back(exported, model_folder, names, order, said, capsys):
    """Catches a round trip that loses the bias or mixes up the labels."""
    classifier, gpt = classifier_on(exported)
    keep_head(classifier, gpt, exported, names)
    with torch.no_grad():
        want = model_folder[2](IDS, torch.ones_like(IDS))[:, order]
        torch.testing.assert_close(classifier(IDS, torch.ones_like(IDS)), want, rtol=1e-5, atol=1e-5)
    assert capsys.readouterr().out.startswith(said) and bool(said) == bool(names == ("x", "y", "z"))


@pytest.mark.parametrize("labels, kind, words", [
    (2, Plain, "its head has 3 labels for vectors of 32; this task has 2"),
    (3, Two, "only where the classifier is GPT-2 and one nn.Linear"),
    (3, Normed, "only where the classifier is GPT-2 and one nn.Linear")])
def test_a_head_that_does_not_fit(exported, labels, kind, words):
    """Catches a head copied into half of a classifier."""
    classifier, gpt = classifier_on(exported, labels, kind)
    with pytest.raises(UserError, match=words):
        keep_head(classifier, gpt, exported, ())


def test_a_run_on_an_exported_folder(folder, exported, tmp_path):
    """Catches a head that is left without a word, one kept in name only, and a run that cannot tell the two apart."""
    two = {"train": folder / "train.csv", "num_labels": 3, "epochs": 1, "lr": 0.0, "schedule": "constant"}
    left = finish(folder, tmp_path / "left", "last-linear-layer", model=str(exported), **two)
    assert f"{exported}: the backbone is taken, its head ('score.weight') is left; --keep-head takes it" in left.printed
    kept = finish(folder, tmp_path / "kept", "last-linear-layer", model=str(exported), keep_head=True, **two)
    assert "is left" not in kept.printed
    weights = load_file(kept.run / "model" / "model.safetensors")
    assert torch.equal(weights["head.1.weight"], load_file(exported / "model.safetensors")["score.weight"])
    assert not weights["head.1.bias"].any()
    with pytest.raises(PretrainedError, match="has no classification head to keep"):
        finish(folder, tmp_path / "none", "last-linear-layer", keep_head=True, **two)


# ---- the folder and its card -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def from_a_run(folder, tmp_path_factory):
    """(run, exported folder) of a run from beginning to end."""
    done = finish(folder, tmp_path_factory.mktemp("run"), "full-model", label_names=("no|", "yes `*"), num_labels=None)
    return done, export_to(done.out / "out", done.run, license="mit")


def test_the_card(from_a_run):
    """Catches figures of another run, and names of labels that break the table or the front matter."""
    done, out = from_a_run
    text = (out / "README.md").read_text(encoding="utf-8")
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    front, result = yaml.safe_load(front), done.json("result.json")
    assert (front["license"], front["pipeline_tag"]) == ("mit", "text-classification")
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert [metric["value"] for metric in metrics] == [result["run"]["accuracy"], result["run"]["macro_f1"]]
    for name, key in (("this model", "run"), ("majority class", "majority"), ("TF-IDF + logistic", "tfidf")):
        score = result[key]
        assert re.search(rf"\| {re.escape(name)}.* \| {score['accuracy']:.3f} \| {score['macro_f1']:.3f} \|", body)
    identity = done.json("run.json")["identity"]
    for value in (identity["backbone"], *identity["texts"].values(), identity["tokenizer"]):
        assert value in body
    assert "0: no&#124;, 1: yes &#96;&#42;" in body
    assert "`AutoModelForCausalLM` loads these weights, but" in body and "truncation=True" in body
    assert json.loads((out / "config.json").read_text())["id2label"] == {"0": "no|", "1": "yes `*"}


def test_the_command_in_the_card():
    """Catches somebody's home folder in what everybody may read, and a command that is not the run's."""
    words = ["classifier.py", "--train", "/home/me/secret/a.csv", "~/b.csv", "data/c.csv", "--lr", "1e-3", ""]
    assert [without_folder(word) for word in words] == [
        "classifier.py", "--train", "a.csv", "b.csv", "data/c.csv", "--lr", "1e-3", ""]


def test_a_copy_of_the_model_alone_can_be_exported(model_folder, tmp_path):
    """Catches a card with figures made up where there is no run."""
    out = export_to(tmp_path / "out", model_folder[0] / "model")
    text = (out / "README.md").read_text(encoding="utf-8")
    assert "Not known: it was exported without the folder of its run." in text and "model-index" not in text


@pytest.mark.parametrize("damage", ["[]", "{", '{"command": 3, "identity": [], "settings": 7}', "\xff"])
def test_damaged_records_of_a_run(model_folder, tmp_path, damage):
    """Catches a traceback where run.json or result.json was edited: the model is whole, the card says less."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(model_folder[0] / "model")
    for name in ("run.json", "result.json"):
        (run / name).write_text(damage, encoding="latin-1")
    assert {path.name for path in export_to(tmp_path / "out", run).iterdir()} == WHOLE


def test_an_earlier_export_is_replaced_and_nothing_else(exported, model_folder, tmp_path):
    """Catches somebody's files removed, and one format's files left among the other's."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_text("old")
    assert {path.name for path in export_to(out, model_folder[0]).iterdir()} == WHOLE
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds files that are no export's \('thesis\.txt'\)"):
        export_to(out, model_folder[0])
    assert {path.name for path in out.iterdir()} == WHOLE | {"thesis.txt"}


def test_settings_that_make_no_sense(model_folder, tmp_path, monkeypatch):
    """Catches hours of work before a mistake in the command line is told."""
    run = model_folder[0]
    (tmp_path / "file").write_text("")
    for more, words in (({"license": "My License"}, "--license takes"), ({"public": True}, "--public is for --push"),
                        ({"push": "no slash"}, "--push takes a name"),
                        ({"out": tmp_path / "file" / "x"}, "not a folder"),
                        ({"run": tmp_path / "nothing"}, "no run folder")):
        with pytest.raises(UserError, match=words):
            Settings(**{"run": run, "out": tmp_path / "out", **more}).check()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="--push needs a token"):
        Settings(run=run, out=tmp_path / "out", push="me/model").check()


def test_help(help_of):
    """Catches an import that makes --help slow, and flags that it does not show."""
    text = help_of("export.py")
    assert all(flag in text for flag in ("--run", "--out", "--format", "--push", "--license"))


def test_the_commands_of_the_manual(root):
    """Catches a flag in docs/serving.md that is not there (any more)."""
    kinds, found = {"export.py": Settings, "classifier.py": Training}, []
    manual = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    for line in re.findall(r"^\./setup\.sh (.*)$", manual, re.MULTILINE):
        script, *words = line.split()
        parser = cli.Parser()
        cli.add_arguments(parser, kinds[script])
        cli.from_arguments(kinds[script], parser.parse_args(words))
        found.append(script)
    assert found == ["export.py", "export.py", "export.py", "classifier.py"]


# ---- the real sizes --------------------------------------------------------------------------------------------------


def test_gpt2_tiny(root, tmp_path):
    """Catches what only a real tokenizer and real weights show, on odd texts and on those of the samples.

    Rounding in float32 is what both may have, beside the same model in float64.
    """
    write_model(root / "models" / "gpt2-tiny", tmp_path / "model", max_length=40,
                rules=("unquote-again", "control-characters", "break-tags", "strip"))
    out = export_to(tmp_path / "out", tmp_path)
    lines = (root / "data" / "sample" / "ids-cfimdb-sample-dev.csv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [*ODD[1:], *(line.split("\t")[-2] for line in lines[:12])]
    model = build(tmp_path / "model")
    ours = probabilities(model, texts)
    model.classifier.double()
    exact = probabilities(model, texts)
    assert (pipeline_probabilities(out, texts) - exact).abs().max() < 4 * (ours - exact).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("format", ["hugging-face", "onnx"])
def test_the_shape_of_gpt2(root, tmp_path, format):
    """Catches what grows with size: rounding over 12 blocks, files of half a gigabyte."""
    torch.manual_seed(0)
    tokenizer = root / "models" / "gpt2-tiny" / "tokenizer.json"
    save_pretrained(GPT2Model(GPT2Config(initializer_range=0.05)), tmp_path / "gpt2", tokenizer_file=tokenizer)
    write_model(tmp_path / "gpt2", tmp_path / "model", max_length=128)
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    out = export_to(tmp_path / "out", tmp_path, format=format)
    assert Path(out, "model.onnx" if format == "onnx" else "model.safetensors").stat().st_size > 4e8
