"""What scripts, graders and solutions of the course rely on: names, arguments, results, files.

Written against the course's interfaces alone, as outside code would be. Where this test has to change, somebody's
script breaks.
"""

import ast
import inspect
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.gpt2 import GPT2Model
from modules.attention import CausalSelfAttention
from modules.gpt2_layer import GPT2Layer
from optimizer import AdamW
from sanity.model import small_checkpoint

KNOWN_ANSWER = [[0.55482787, 0.86665666, 0.07291982], [-0.44724506, -0.2951228, -0.2717272]]
CONFIG = SimpleNamespace(hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=96,
                         vocab_size=101, max_position_embeddings=16, hidden_dropout_prob=0.1,
                         attention_probs_dropout_prob=0.1, layer_norm_eps=1e-5, initializer_range=0.02)
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
IDS = torch.tensor([[5, 17, 99, 3, 0, 0], [1, 2, 3, 4, 5, 6]])


@pytest.fixture(scope="module")
def folder():
    with small_checkpoint() as folder:
        yield str(folder)


# optimizer.py


def test_adamw_signature():
    """Catches: a renamed, reordered or re-defaulted argument."""
    parameters = {name: p.default for name, p in inspect.signature(AdamW).parameters.items()}
    assert parameters.pop("params") is inspect.Parameter.empty
    assert dict(list(parameters.items())[:5]) == {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "correct_bias": True}
    assert issubclass(AdamW, torch.optim.Optimizer)


def test_adamw_known_answer(root):
    """Catches: another order of decay, another epsilon, another bias correction, another stored answer."""
    torch.manual_seed(0)
    rng = np.random.default_rng(seed=0)
    model = torch.nn.Linear(3, 2, bias=False)
    opt = AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, correct_bias=True)
    for _ in range(1000):
        opt.zero_grad()
        x = torch.FloatTensor(rng.uniform(size=[model.in_features]))
        y_hat = model(x)
        y = torch.Tensor([x[0] + x[1], -x[2]])
        loss = ((y - y_hat) ** 2).sum()
        loss.backward()
        opt.step()
    assert np.allclose(model.weight.detach().numpy(), KNOWN_ANSWER, atol=1e-5, rtol=1e-4)
    assert np.allclose(np.load(root / "optimizer_test.npy"), KNOWN_ANSWER, atol=1e-6, rtol=0)


def test_adamw_closure_and_sparse_gradients():
    """Catches: a step() that swallows the loss, or takes sparse gradients for dense ones."""
    weight = torch.nn.Parameter(torch.ones(2))
    assert AdamW([weight]).step(lambda: 3.5) == 3.5
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError):
        AdamW(embedding.parameters()).step()


# modules/


def test_attention():
    """Catches: another constructor, other names, another mask contract, another shape."""
    attention = CausalSelfAttention(CONFIG)
    for name in ("query", "key", "value"):
        assert isinstance(getattr(attention, name), torch.nn.Linear)
    assert isinstance(attention.dropout, torch.nn.Dropout)
    mask = (1.0 - MASK[:, None, None, :].float()) * -10000.0
    assert attention(torch.randn(2, 6, 24), mask).shape == (2, 6, 24)
    assert attention(hidden_states=torch.randn(2, 6, 24), attention_mask=mask).shape == (2, 6, 24)


def test_layer():
    """Catches: a renamed part, or another calling convention."""
    layer = GPT2Layer(CONFIG)
    assert isinstance(layer.self_attention, CausalSelfAttention)
    for kind, names in ((torch.nn.Linear, ("attention_dense", "interm_dense", "out_dense")),
                        (torch.nn.LayerNorm, ("attention_layer_norm", "out_layer_norm")),
                        (torch.nn.Dropout, ("attention_dropout", "out_dropout"))):
        assert all(isinstance(getattr(layer, name), kind) for name in names)
    mask = torch.zeros(2, 1, 1, 6)
    assert layer(torch.randn(2, 6, 24), mask).shape == (2, 6, 24)


# models/


def test_model():
    """Catches: a renamed part or method, another result, or a config that must be of our own class."""
    model = GPT2Model(CONFIG)
    assert isinstance(model.word_embedding, torch.nn.Embedding)
    assert isinstance(model.pos_embedding, torch.nn.Embedding)
    assert isinstance(model.embed_dropout, torch.nn.Dropout)
    assert isinstance(model.final_layer_norm, torch.nn.LayerNorm)
    assert len(model.gpt_layers) == 2 and isinstance(model.gpt_layers[0], GPT2Layer)
    outputs = model(IDS, MASK)
    assert set(outputs) == {"last_hidden_state", "last_token"}
    assert outputs["last_hidden_state"].shape == (2, 6, 24) and outputs["last_token"].shape == (2, 24)
    embedded = model.embed(input_ids=IDS)
    assert embedded.shape == model.encode(embedded, attention_mask=MASK).shape == (2, 6, 24)
    assert model.hidden_state_to_token(outputs["last_token"]).shape == (2, 101)
    assert model(input_ids=IDS, attention_mask=MASK).keys() == outputs.keys()


def test_from_pretrained(folder):
    """Catches: other names of arguments, a model in training mode, hidden states that are not GPT-2's."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Model.from_pretrained(folder)
    ours = GPT2Model.from_pretrained(model=folder, d=48, l=3, num_heads=4)
    got = ours(IDS, MASK)["last_hidden_state"]
    want = theirs(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states[-1]
    mask = MASK.unsqueeze(-1)
    assert torch.allclose(got * mask, want * mask, atol=1e-5, rtol=1e-4)
    assert inspect.signature(GPT2Model.from_pretrained).parameters["model"].default == "gpt2"


# classifier.py


@pytest.mark.parametrize("mode", ["last-linear-layer", "full-model"])
def test_classifier(mode, folder, monkeypatch):
    """Catches: a constructor that needs more than the course's config; a mode that trains the wrong part."""
    from classifier import GPT2SentimentClassifier
    load = GPT2Model.from_pretrained.__func__
    monkeypatch.setattr(GPT2Model, "from_pretrained",
                        classmethod(lambda cls, model="gpt2", *a, **k: load(cls, folder, *a, **k)))
    config = SimpleNamespace(hidden_dropout_prob=0.3, num_labels=5, hidden_size=48, data_dir=".",
                             fine_tune_mode=mode)
    model = GPT2SentimentClassifier(config)
    logits = model(IDS, MASK)
    assert logits.shape == (2, 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    torch.nn.functional.cross_entropy(logits, torch.tensor([1, 4]), reduction="sum").backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    backbone = {name for name in before if "word_embedding" in name or "gpt_layers" in name}
    assert changed and backbone
    assert backbone <= changed if mode == "full-model" else not backbone & changed


@pytest.mark.parametrize("hyphens", [True, False])
def test_flags(monkeypatch, hyphens):
    """Catches: a flag of the course that is gone, spelt in one way only, or has another default."""
    from finetuning.settings import read_settings
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # read_settings replaces it
    flags = ["--seed", "7", "--epochs", "3", "--fine-tune-mode", "full-model", "--batch_size", "4",
             "--hidden_dropout_prob", "0.5", "--lr", "0.002"]
    flags = [flag.replace("_", "-") if hyphens else "--" + flag[2:].replace("-", "_") if flag[:2] == "--" else flag
             for flag in flags]
    monkeypatch.setattr(sys, "argv", ["classifier.py", "--data", "sst-sample", *flags])
    settings = read_settings("")
    assert (settings.seed, settings.epochs, settings.fine_tune_mode) == (7, 3, "full-model")
    assert (settings.batch_size, settings.hidden_dropout_prob, settings.lr) == (4, 0.5, 0.002)
    monkeypatch.setattr(sys, "argv", ["classifier.py", "--data", "sst-sample", "--use_gpu"])
    assert read_settings("").use_gpu


def test_defaults_are_the_course_s(monkeypatch):
    """Catches: a run without flags that is not the course's."""
    from data.tasks import TASKS
    from finetuning.settings import Settings
    settings = Settings()
    recipe = settings.recipe(TASKS["sst"])
    assert (settings.seed, settings.fine_tune_mode, settings.backbone) == (11711, "last-linear-layer", "gpt2")
    assert (recipe.epochs, recipe.dropout) == (10, 0.3)
    assert [task.name for task in settings.tasks()] == ["sst", "cfimdb"]


# files


def test_prediction_files(tmp_path):
    """Catches: a comma, tab or space that outside graders do not expect."""
    from finetuning.results import write_predictions
    from finetuning.settings import prediction_file
    path = prediction_file(tmp_path, "last-linear-layer", "sst", "dev")
    assert path == tmp_path / "last-linear-layer-sst-dev-out.csv"
    write_predictions(path, ["f3a", "0b1"], [3, 0])
    assert path.read_bytes() == b"id \t Predicted_Sentiment \nf3a, 3 \n0b1, 0 \n"
    with open(path) as file:  # as the course's graders read it
        rows = [line.strip().split(", ") for line in file.readlines()[1:]]
    assert {id: int(label) for id, label in rows} == {"f3a": 3, "0b1": 0}


def test_data_files(root):
    """Catches: bundled samples in another form than the course's files, on which scripts call csv.DictReader."""
    import csv
    for split, columns in (("train", ["", "id", "sentence", "sentiment"]), ("test-student", None)):
        with open(root / f"data/sample/ids-sst-sample-{split}.csv", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            rows = list(reader)
        assert reader.fieldnames == columns or columns is None
        assert all(row["id"] and row["sentence"] for row in rows)
        assert columns is None or {int(row["sentiment"].strip()) for row in rows} == set(range(5))


def test_scripts_are_where_they_were(root):
    """Catches: a script or class that was moved."""
    for file, names in (("optimizer.py", ["AdamW"]), ("optimizer_test.py", ["test_optimizer"]),
                        ("classifier.py", ["GPT2SentimentClassifier"]), ("modules/gpt2_layer.py", ["GPT2Layer"]),
                        ("modules/attention.py", ["CausalSelfAttention"]), ("models/gpt2.py", ["GPT2Model"]),
                        ("sanity_check.py", []), ("prepare_submit.py", [])):
        tree = ast.parse((root / file).read_text(encoding="utf-8"))
        assert {*names} <= {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
