"""ONNX files: the student's own modules, of any head, hold for every number and length of texts."""

import json

import pytest
import torch

from common.errors import UserError
from serving import model_folder as module
from serving import onnx_file
from serving.export import probabilities
from serving.model_folder import build
from tests.finetuning.kinds import Mean, Plain
from tests.serving.conftest import write_model
from tests.serving.test_export import ODD, Relu, export_to

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx: pip install onnx onnxruntime")
pytest.importorskip("onnx", reason="needs the extra onnx: pip install onnx onnxruntime")


class Halves(Plain):
    """Reads another vector in a batch of more than two: a trace keeps one way only."""

    def forward(self, input_ids, attention_mask):
        logits = super().forward(input_ids, attention_mask)
        return logits if len(input_ids) <= 2 else -logits


class Counted(Plain):
    """Adds how many tokens the batch is long, as a plain number."""

    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids, attention_mask) + float(torch.full((), input_ids.shape[1]).item())


@pytest.mark.parametrize("kind", [None, Mean, Relu])
def test_any_head_any_number_any_length(kind, model_folder, folder, tmp_path, monkeypatch):
    """Catches sizes frozen into the file, padding that is read, and a tokenizer that is not the run's."""
    run = model_folder[0]
    if kind:
        run = tmp_path / "run"
        write_model(folder / "model", run / "model", kind)
        monkeypatch.setattr(module, "GPT2SentimentClassifier", kind)
    out = export_to(tmp_path / "out", run, format="onnx")
    model = build(run / "model")
    texts = ODD[1:]
    assert (onnx_file.probabilities(out, texts) - probabilities(model, texts)).abs().max() < 1e-5
    session = onnx_file.open_session(out / "model.onnx")
    for B in (1, 2, 7):
        for T in range(1, 25):
            ids, mask = onnx_file.batch(model, B, T)
            with torch.no_grad():
                want = model.classifier(ids, mask)
            got, = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
            torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-4, atol=1e-4)
    assert not (out / "model.safetensors").exists()


@pytest.mark.parametrize("kind, words", [(Halves, "gives other logits for 7 texts"), (Counted, "gives other logits")])
def test_what_a_trace_does_not_keep(kind, words, folder, tmp_path, monkeypatch):
    """Catches a file that is right for the texts it was made with, and for no others."""
    write_model(folder / "model", tmp_path / "model", kind)
    monkeypatch.setattr(module, "GPT2SentimentClassifier", kind)
    with pytest.raises(UserError, match=words):
        export_to(tmp_path / "out", tmp_path, format="onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_the_cards_code_runs(model_folder, tmp_path, monkeypatch):
    """Catches an example that does not work, or pads on the left."""
    out = export_to(tmp_path / "out", model_folder[0], format="onnx")
    card = (out / "README.md").read_text(encoding="utf-8")
    code = "\n".join(line[4:] for line in card.split("## Use")[1].split("## How good")[0].splitlines()
                     if line.startswith("    "))
    monkeypatch.chdir(out)
    names = {}
    exec(code, names)
    want = probabilities(build(model_folder[0] / "model"), ["a fine film", "a dull one"])
    assert (torch.from_numpy(names["logits"]).double().softmax(dim=1) - want).abs().max() < 1e-5
    assert json.loads((out / "config.json").read_text())["id2label"]["0"] == "terrible"


def test_lengths():
    """Catches a limit that is never compared, or a length twice."""
    for limit in (1, 2, 3, 24, 512, 1024):
        found = list(onnx_file.lengths(limit))
        assert found[0] == 1 and found[-1] == limit and found == sorted(set(found)) and len(found) < 20
