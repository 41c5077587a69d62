"""pretrain.py end to end on a few hundred generated documents: killed and resumed, loaded by transformers, refused."""

import dataclasses
import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from common import cli
from common.errors import Stopped, UserError
from data.tokenizer import Tokenizer
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from modules.attention import CausalSelfAttention
from modules.gpt2_layer import GPT2Layer
from optimizer import AdamW
from pretraining import run as pretraining_run
from pretraining.corpus import Blocks
from pretraining.objectives import pretraining
from pretraining.settings import Settings
from tests.mutants import mutate
from training.loop import Diverged
from training.memory import OutOfMemory
from training.parallel.process_group import DeviceError
from training.runs.run_folder import CheckpointError, RunFolder, RunFolderError

STEPS, LEG = 160, 20
FLAGS = {"vocab_size": 290, "tokenizer_every": 2, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "max_position_embeddings": 16, "batch_tokens": 128, "tokens": 128.0 * STEPS, "eval_every": LEG, "lr": 1e-2,
         "dropout": 0.2, "bag_weight": 0.1, "rating_weight": 0.1,
         "accumulate": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """600 documents of a language in which every word says what the next one may be; every third states a rating."""
    draw = random.Random(0)
    words = [f"{a}{b}" for a in "bdgklm" for b in "aeiou"]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    documents = []
    for number in range(600):
        at = draw.randrange(30)
        document = [words[at := (at * 7 + draw.randrange(3)) % 30] for _ in range(draw.randrange(20, 30))]
        documents.append(" ".join(document) + "." + (f" {draw.randrange(11)}/10" if number % 3 == 0 else ""))
    path.write_text("\n".join(documents))
    return path


def make(text, out, **changes):
    return Settings(text=(text,), out=out, **{**FLAGS, **changes})


def run(settings, monkeypatch):
    """Run in this process, without the change of the memory allocator."""
    monkeypatch.setattr(pretraining_run, "keep_freed_memory", lambda: None)
    pretraining_run.run(settings)


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(make(text, out), monkeypatch)
    return out


def command(text, out):
    flags = [word for name, value in FLAGS.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "pretrain.py", "--text", str(text), "--out", str(out), *flags]


def last(out):
    return json.loads((out / "last.json").read_text())


def tensors(out):
    """Weights, moments and generators of the last checkpoint."""
    return {f"{path.name[:6]} {name}": tensor for path in sorted(out.glob("*.safetensors"))
            for name, tensor in load_file(path).items()}


def test_killed_and_resumed_is_bit_for_bit_the_whole_run(text, whole, root, tmp_path, monkeypatch, capsys):
    """Catches whatever a checkpoint forgets: generators (dropout and the second objective draw), moments, the schedule,
    the place in the text, the log. The process dies by SIGKILL, which lets nobody tidy up.
    """
    with subprocess.Popen(command(text, tmp_path), cwd=root, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("step 40:"):
                process.kill()
    assert process.returncode == -signal.SIGKILL
    assert LEG <= last(tmp_path)["state"]["train"]["step"] < STEPS

    run(make(text, tmp_path, resume=True), monkeypatch)
    assert f"step {LEG}:" not in capsys.readouterr().out
    assert last(tmp_path)["state"]["train"] == last(whole)["state"]["train"]
    assert (tmp_path / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()
    ours, theirs = tensors(tmp_path), tensors(whole)
    assert ours.keys() == theirs.keys() and len(ours) > 60
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def everything(folder):
    """Every file of a run, with its bytes; without what tells of processes, and what no run owns."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            and path.name not in (".lock", "times.jsonl") and path.relative_to(folder).parts[0] != "ids"}


@pytest.mark.parametrize("change, said", [
    ({"vocab_size": 5000}, "the text gives only"), ({"rating_weight": 1.0}, "no document of the text states a rating"),
    ({"max_position_embeddings": 10**5}, "not enough for one block")])
def test_a_new_run_that_is_refused_leaves_the_old_one(whole, text, tmp_path, monkeypatch, change, said):
    """Catches a tokenizer or model of a finished run that is overwritten by one which never begins."""
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "other.txt").write_text(text.read_text().replace("/10", " of ten").replace("ba", "za"))
    before = everything(tmp_path / "out")
    with pytest.raises(UserError, match=said):
        run(make(tmp_path / "other.txt", tmp_path / "out", **change), monkeypatch)
    assert everything(tmp_path / "out") == before


def test_a_new_run_that_is_stopped_leaves_both(whole, text, tmp_path, monkeypatch, capsys):
    """Catches an old run that cannot be resumed, or has lost its model, because another began in its folder."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    old = everything(out)
    (tmp_path / "other.txt").write_text(text.read_text().replace("ba", "za"))
    other = make(tmp_path / "other.txt", out, vocab_size=280)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretraining_run, "fit", stop)
        run(other, monkeypatch)
    assert everything(out / "previous") == old
    assert Tokenizer.load(out / "tokenizer").fingerprint != Tokenizer.load(out / "previous/tokenizer").fingerprint
    assert not (out / "model").exists() and not (out / ".beginning").exists()

    # Both can go on.
    monkeypatch.setattr(pretraining_run, "fit", lambda *_, **__: None)
    run(make(text, out / "previous", resume=True), monkeypatch)
    run(dataclasses.replace(other, resume=True), monkeypatch)
    assert "starting anew" in capsys.readouterr().err and everything(out / "previous") == old


def test_resuming_a_finished_run_makes_its_model_anew(whole, text, tmp_path, monkeypatch):
    """Catches a model that stays lost, or another run's, though all that it is made of is there."""
    shutil.copytree(whole, tmp_path / "out")
    before = everything(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "model")
    run(make(text, tmp_path / "out", resume=True), monkeypatch)
    assert everything(tmp_path / "out") == before


@pytest.mark.parametrize("flag", ["start", "tokenizer"])
def test_a_run_does_not_begin_with_what_it_moves_away(whole, text, tmp_path, monkeypatch, flag):
    """Catches a run that loses its own beginning to previous/ in the middle."""
    shutil.copytree(whole, tmp_path / "out")
    with pytest.raises(UserError, match=r"is part of the run in .*\nChoose another folder with --out$"):
        make(text, tmp_path / "out", **{flag: tmp_path / "out" / "model"})


def test_a_sample_cannot_repaint_the_terminal(text, tmp_path, monkeypatch, capsys):
    """Catches control characters, or lines that look like ours, out of the text that is trained on."""
    monkeypatch.setattr(pretraining_run.Tokenizer, "decode", lambda *_: "\x1b[2J\nstep 1: all is lost\r")
    run(make(text, tmp_path, tokens=256.0, rating_weight=0.0), monkeypatch)
    said = capsys.readouterr().out
    assert r"    \x1b[2J\nstep 1: all is lost\r" in said.splitlines() and "\x1b" not in said


def test_it_learns_and_logs_it(whole):
    """Catches a loss that does not fall, a wrong number of steps, and a perplexity that is not that of the loss."""
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == list(range(LEG, STEPS + 1, LEG))
    assert [record["tokens"] for record in log] == [128 * record["step"] for record in log]
    for record in log:
        assert record["held_out_perplexity"] == pytest.approx(math.exp(record["held_out_loss"]))
    # Every word is followed by one of three: a model that had learned all would be near log(3) a word.
    assert log[-1]["held_out_loss"] < 0.5 * math.log(290) < log[0]["held_out_loss"]


def test_the_folder_holds_a_run_and_nothing_else(whole):
    """Catches temporary files, checkpoints that pile up, and a run that does not say how it was made."""
    names = {path.name for path in whole.iterdir()}
    checkpoints = {name for name in names if name.endswith(".safetensors")}
    assert names - checkpoints == {".lock", "run.json", "log.jsonl", "times.jsonl", "last.json", "result.json", "ids",
                                   "tokenizer", "model"}
    assert len(checkpoints) == 2
    assert {path.name for path in (whole / "model").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    described = json.loads((whole / "run.json").read_text())
    assert described["settings"]["batch_tokens"] == 128 and described["tokens of text"] > 5000


def test_transformers_load_the_folder(whole):
    """Catches a layout, a transposed matrix or a tokenizer that only we can read: same ids, same logits to 1e-5."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(whole / "model", dtype=torch.float32).eval()
    ours = GPT2Model.from_pretrained(str(whole / "model"))
    words = "Ba di, gogo! -LRB- ma"
    ids = Tokenizer.load(whole / "model").encode([words], 16, lowercase=False).ids
    tokenizer = AutoTokenizer.from_pretrained(whole / "model")
    assert tokenizer([words]).input_ids == ids
    assert tokenizer.eos_token_id == Tokenizer.load(whole / "model").pad_id
    inputs = torch.tensor(ids)
    with torch.no_grad():
        logits = ours.hidden_state_to_token(ours(inputs, torch.ones_like(inputs))["last_hidden_state"])
        torch.testing.assert_close(logits, theirs(inputs).logits, rtol=0, atol=1e-5)


def test_the_saved_model_is_the_trained_one(whole):
    """Catches a model saved before its last step: float16 keeps 11 bits of each weight that was trained."""
    saved = dict(GPT2Model.from_pretrained(str(whole / "model")).named_parameters())
    trained = {name.removeprefix("weight gpt."): tensor for name, tensor in tensors(whole).items()
               if name.startswith("weight gpt.")}
    assert saved.keys() == trained.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, trained[name], rtol=2**-11, atol=2**-24)
    stored = load_file(whole / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_the_saved_model_has_gpt2s_dropout(whole):
    """Catches the dropout of pretraining, none by default, handed on to fine-tuning, as --help denies."""
    config = GPT2Model.from_pretrained(str(whole / "model")).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert config.max_position_embeddings == 16 and config.vocab_size == 290


def test_other_settings_do_not_resume_this_run(text, whole, monkeypatch):
    """Catches a run that goes on with another schedule as if it were the same; the folder stays as it is."""
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.suffix in (".safetensors", ".json")}
    with pytest.raises(CheckpointError, match="lr"):
        run(make(text, whole, resume=True, lr=1e-3), monkeypatch)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_may_be_moved(text, whole, tmp_path, monkeypatch, capsys):
    """Catches a run that is tied to where it, its text or its tokenizer lay, none of which decides the result; and one
    that goes on with other text.
    """
    shutil.copytree(whole, tmp_path / "moved")
    shutil.copy(text, tmp_path / "same.txt")
    shutil.copytree(whole / "tokenizer", tmp_path / "tokenizer")
    before = (whole / "log.jsonl").read_bytes()
    run(make(tmp_path / "same.txt", tmp_path / "moved", resume=True, tokenizer=tmp_path / "tokenizer",
             sample="ba", save_minutes=1.0), monkeypatch)
    assert (tmp_path / "moved" / "log.jsonl").read_bytes() == before and "step" not in capsys.readouterr().err
    (tmp_path / "same.txt").write_text(text.read_text().replace("ba", "bo"))
    with pytest.raises(CheckpointError, match="ids was"):
        run(make(tmp_path / "same.txt", tmp_path / "moved", resume=True), monkeypatch)


def test_another_vocabulary_begins_with_the_means_of_the_old_one(text, whole, tmp_path, monkeypatch):
    """Catches vectors that are lost, shifted or given to the wrong tokens where a model goes on with new tokens."""
    begun = []
    fit = pretraining_run.fit
    monkeypatch.setattr(pretraining_run, "fit", lambda model, *rest, **more: (
        begun.append(model.gpt.word_embedding.weight.detach().clone()), fit(model, *rest, **more)))
    run(make(text, tmp_path, start=whole / "model", vocab_size=300, tokens=128.0), monkeypatch)

    old, new = (json.loads((folder / "model" / "tokenizer.json").read_text())["model"]["vocab"]
                for folder in (whole, tmp_path))
    before = GPT2Model.from_pretrained(str(whole / "model")).word_embedding.weight
    merged = {a + b: (a, b) for a, b in json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())[
        "model"]["merges"]}

    def parts(token):
        return [old[token]] if token in old else [id for half in merged[token] for id in parts(half)]

    expected = torch.stack([before[parts(token)].mean(dim=0) for token in sorted(new, key=new.get)])
    torch.testing.assert_close(begun[0], expected)
    assert len(new) == 300 and sum(len(parts(token)) > 1 for token in new) >= 10
    saved = GPT2Model.from_pretrained(str(tmp_path / "model"))
    assert saved.config.vocab_size == 300 and saved.word_embedding.weight.shape == (300, 32)
    assert json.loads((tmp_path / "log.jsonl").read_text())["held_out_loss"] < math.log(300)


def test_its_own_tokenizer_changes_nothing(whole):
    """Catches a vocabulary that is rebuilt where it is the same, and --start's own tokenizer that is not taken."""
    settings = Settings(text=(), start=whole / "model")
    assert pretraining_run.find_tokenizer(settings, RunFolder(settings.out), new=True) == whole / "model"
    gpt, _ = pretraining_run.make_backbone(settings, Tokenizer.load(whole / "model"))
    saved = GPT2Model.from_pretrained(str(whole / "model"))
    assert all(torch.equal(a, b) for a, b in zip(gpt.parameters(), saved.parameters(), strict=True))


def test_weight_decay_is_for_matrices():
    """Catches decay on biases or gains, and parameters in no group or in two."""
    model = GPT2Model(GPT2Config(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    decayed, spared = pretraining_run.parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[p] for p in decayed["params"]} == {
        name for name in names.values() if name.endswith("weight") and "norm" not in name}
    assert {*decayed["params"], *spared["params"]} == set(names)
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


class Text:
    """Stands for a corpus: the batches of a pass are (pass, number)."""

    def order(self, batch_tokens, long_share, seed, number):
        return [(number, batch) for batch in range(7)]


@pytest.mark.parametrize("eval_every", [1, 3, 7, 20, 100])
def test_legs_are_cut_from_endless_passes(eval_every):
    """Catches batches left out or repeated where a leg or a pass ends, and a last leg that is too long."""
    settings = Settings(text=(), tokens=50.0, batch_tokens=1, eval_every=eval_every)
    corpus = Text()
    legs = [pretraining_run.leg_order(settings, corpus, leg) for leg in range(math.ceil(50 / eval_every))]
    assert [batch for leg in legs for batch in leg] == [(step // 7, step % 7) for step in range(50)]
    assert {len(leg) for leg in legs[:-1]} <= {eval_every}


@pytest.mark.parametrize("change, said", [
    ({"vocab_size": 0}, "--vocab-size must be from 257 to 65536, not 0"),
    ({"tokens": 0.0}, "--tokens must be at least 1"),
    ({"batch_tokens": -1}, "--batch-tokens must be at least 1"),
    ({"eval_every": 0}, "--eval-every must be at least 1"),
    ({"max_position_embeddings": 30}, "--max-position-embeddings must be a multiple of 4, not 30"),
    ({"long_share": 1.5}, "--long-share must be from 0 to 1, not 1.5")])
def test_refusals(text, tmp_path, change, said):
    """Catches settings that fail after the tokenizer was trained, or not at all."""
    with pytest.raises(UserError, match=re.escape(said)):
        make(text, tmp_path, **change)
    assert list(tmp_path.iterdir()) == []


def test_ratings_asked_for_where_there_are_none(text, tmp_path, monkeypatch):
    """Catches hours of training on an objective that never applies."""
    (tmp_path / "text.txt").write_text(text.read_text().replace("/10", " of ten"))
    with pytest.raises(UserError, match="no document of the text states a rating"):
        run(make(tmp_path / "text.txt", tmp_path / "out"), monkeypatch)


def test_the_objective_is_the_sum_of_its_parts():
    """Catches a weight that reaches the wrong part, or a part that is left out."""
    class Parts:
        def hidden(self, ids):
            return ids

        def next_token(self, hidden, targets):
            return torch.tensor(1.0)

        def bag_of_words(self, hidden, ids):
            return torch.tensor(10.0)

        def rating(self, hidden, ratings):
            return torch.tensor(100.0)

    batch = Blocks(torch.zeros(1), torch.zeros(1))
    losses = {(bag, rating): float(pretraining(bag, rating)(Parts(), batch).loss)
              for bag in (0.0, 2.0) for rating in (0.0, 3.0)}
    assert losses == {(0.0, 0.0): 1.0, (2.0, 0.0): 21.0, (0.0, 3.0): 301.0, (2.0, 3.0): 321.0}


def test_a_text_that_is_not_there(root, tmp_path):
    """Catches a traceback, or seconds of importing, before a wrong path is found."""
    done = subprocess.run(command(tmp_path / "no.txt", tmp_path / "out"), cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --text: there is no file {tmp_path / 'no.txt'}\n"
    assert not (tmp_path / "out").exists()


def test_help_needs_no_pytorch(help_of):
    """Catches an import that makes --help wait for PyTorch, and a flag without help."""
    flags = [line for line in help_of("pretrain.py").splitlines() if line.startswith("  --")]
    assert len(flags) == len(dataclasses.fields(Settings)) == len(cli.field_help(Settings))


# ---- which flag mends it ---------------------------------------------------------------------------------------------


def told(settings, error):
    """What is said of an error in a run with these settings."""
    with pytest.raises(type(error)) as caught, pretraining_run.advice(settings):
        raise error
    return str(caught.value)


def test_less_memory(text, tmp_path):
    """Catches: advice with other numbers than the run's, or for something else than what the run was doing."""
    settings = make(text, tmp_path)
    for doing, advice in (
            ("training", "--accumulate 4 (now 2): the same step in smaller parts; or --batch_tokens 64 (now 128)"),
            ("evaluating", "--batch_tokens 64 (now 128)"), ("loading", "--hidden_size 16 (now 32)")):
        assert told(settings, OutOfMemory("out of memory", doing)) == f"out of memory\nTurn down: {advice}"


def test_other_errors_name_their_flags(text, tmp_path, monkeypatch):
    """Catches: an error of a room without a word about the flag that mends it."""
    settings = make(text, tmp_path)
    assert told(settings, DeviceError("x")) == "x\nUse --device auto or --device cpu"
    assert told(settings, RunFolderError("x")) == "x\nChoose another folder with --out"
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--resume", "--text", "a b"])
    assert told(settings, Stopped("stopped", 130)) == \
        "stopped\nresume with the same command and --resume: pretrain.py --text 'a b' --resume"


def test_what_goes_wrong_in_a_run_names_its_flag(text, whole, tmp_path, monkeypatch):
    """Catches: advice that the run itself does not give."""
    with pytest.raises(Diverged, match=r"became (nan|inf) at step .*\nUsual causes: a learning rate .*\(lower --lr\)"):
        run(make(text, tmp_path / "diverges", lr=1e30, warmup=0.0), monkeypatch)
    with pytest.raises(CheckpointError, match=r"lr was .*\nGive the settings it was started with, or leave out --res"):
        run(make(text, whole, resume=True, lr=1e-3), monkeypatch)
    with RunFolder(tmp_path / "held"), pytest.raises(RunFolderError, match=r"in use .*\nChoose another .* with --out"):
        run(make(text, tmp_path / "held"), monkeypatch)
    with pytest.raises(UserError, match=r"only \d+ tokens, not 9000\nGive more text or a smaller --vocab_size$"):
        run(make(text, tmp_path / "words", vocab_size=9000), monkeypatch)
    monkeypatch.setattr(pretraining_run, "held_out_loss", lambda *_: torch.empty(1 << 60))
    with pytest.raises(OutOfMemory, match=r"out of memory for the model\nTurn down: --hidden_size 16"):
        run(make(text, tmp_path / "memory", tokens=128.0), monkeypatch)


@pytest.mark.parametrize("file, kind, edit", [
    ("modules/gpt2_layer.py", GPT2Layer, ("return x + self.out_dropout(self.out_dense(inner))", "return x * 0")),
    ("modules/attention.py", CausalSelfAttention, ("self.dropout(scores.softmax(dim=-1))", "scores.softmax(dim=-1)")),
    ("models/gpt2.py", GPT2Model, ("hidden_state @ self.word_embedding.weight.T",
                                   "hidden_state @ self.word_embedding.weight.T * 2")),
    ("optimizer.py", AdamW, ('if group["correct_bias"]:', "if False:"))])
def test_the_definition_rules(text, whole, tmp_path, monkeypatch, capsys, file, kind, edit):
    """Catches: an engine that pretrains something else than the files in front of the reader say, without a word."""
    method = {GPT2Model: "hidden_state_to_token", AdamW: "step"}.get(kind, "forward")
    monkeypatch.setattr(kind, method, getattr(getattr(mutate(file, edit), kind.__name__), method))
    logs, quick = [], {"tokens": 128.0 * 2 * LEG, "dropout": 0.0 if kind is AdamW else 0.2}
    for engine in ("auto", "off"):
        capsys.readouterr()
        run(make(text, tmp_path / engine, engine=engine, tokenizer=whole / "tokenizer", **quick), monkeypatch)
        assert (f"engine: {file} differs by " in capsys.readouterr().out) == (engine == "auto")
        logs.append([json.loads(line) for line in (tmp_path / engine / "log.jsonl").read_text().splitlines()])
    assert len(logs[0]) == 2
    for ours, theirs in zip(*logs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)  # forty steps amplify rounding


def test_the_engine_changes_nothing_but_time(text, whole, tmp_path, monkeypatch):
    """Catches: an engine that learns something else from the same text. Dropout is off: the engine draws others."""
    logs = []
    for engine in ("auto", "off"):
        run(make(text, tmp_path / engine, engine=engine, tokenizer=whole / "tokenizer", tokens=128.0 * 2 * LEG,
                 dropout=0.0), monkeypatch)
        logs.append([json.loads(line) for line in (tmp_path / engine / "log.jsonl").read_text().splitlines()])
    for ours, theirs in zip(*logs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)  # forty steps amplify rounding
    with pytest.raises(CheckpointError, match=r"engine\.gpt2 was"):
        run(make(text, tmp_path / "auto", engine="off", tokenizer=whole / "tokenizer", tokens=128.0 * 2 * LEG,
                 dropout=0.0, resume=True), monkeypatch)


@pytest.mark.parametrize("note", [None, "gpt2-tiny"])
def test_what_is_made_from_a_model_is_fine_tuned_like_it(whole, text, tmp_path, monkeypatch, note):
    """Catches the note on settings for fine-tuning lost by training on, or made up for a model from nothing."""
    start = shutil.copytree(whole / "model", tmp_path / "start")
    config = json.loads((start / "config.json").read_text())
    assert "fine_tune_like" not in config
    if note:
        (start / "config.json").write_text(json.dumps({**config, "fine_tune_like": note}))
    run(make(text, tmp_path / "out", start=start, vocab_size=None, tokens=128.0 * 2, eval_every=2), monkeypatch)
    assert json.loads((tmp_path / "out" / "model" / "config.json").read_text()).get("fine_tune_like") == note


@pytest.mark.parametrize("documents, every", [(40, 20), (12, 5), (4, 2)])
def test_of_a_short_text_more_is_held_out(text, tmp_path, monkeypatch, capsys, documents, every):
    """Catches a text refused because one document in 500 is less than a block, though there is enough in all."""
    short = tmp_path / "short.txt"
    short.write_text("\n".join(text.read_text().split("\n")[:documents]))
    run(make(short, tmp_path / "out", tokens=128.0 * 2, eval_every=2, max_position_embeddings=48, vocab_size=280,
             rating_weight=0.0), monkeypatch)
    assert f"one document in {every} is held out for validation, not in 500" in capsys.readouterr().out


@pytest.mark.parametrize("lines, said", [
    (1, r"tokens in 1 document \(a line is one\) are not enough for one block of 48 to train on"),
    (2, r"tokens in 2 documents \(a line is one\) are not enough .* each takes 49 tokens")])
def test_too_little_text_says_how_much_is_needed(text, tmp_path, monkeypatch, lines, said):
    """Catches an error that says too little without saying how much would do."""
    short = tmp_path / "short.txt"
    short.write_text("\n".join(["bababa gogo. " * (9 if lines == 1 else 2)] * lines))
    with pytest.raises(UserError, match=said) as error:
        run(make(short, tmp_path / "out", max_position_embeddings=48, vocab_size=259, tokenizer_every=1,
                 rating_weight=0.0), monkeypatch)
    assert str(error.value).endswith("\nGive more text, or a smaller --max_position_embeddings")
