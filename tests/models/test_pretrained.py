"""Checkpoints: read from Hugging Face, written for Hugging Face, and refused when they are not right."""

import json
import os
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from common.errors import UserError
from models import pretrained
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from models.pretrained import PretrainedError
from sanity.checks import difference, randomise

IDS = torch.arange(20).view(2, 10)
MASK = torch.ones_like(IDS)


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A copy of the checkpoint, to be damaged."""
    return shutil.copytree(checkpoint[0], tmp_path / "copy")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_weights(folder, change):
    """Let `change` alter the dict of tensors of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder):
    """Spread a checkpoint over two files and an index, as large checkpoints are."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


def states(model):
    with torch.no_grad():
        return model(IDS, MASK)["last_hidden_state"]


# Reading


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_files_of_any_float_type_become_float32(make_checkpoint, dtype):
    """Catches: a model left in the file's type, or a file read as another type."""
    folder, theirs = make_checkpoint(dtype=dtype)
    ours = GPT2Model.from_pretrained(folder)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    want = theirs.float().transformer(IDS, attention_mask=MASK).last_hidden_state
    assert difference(states(ours), want) < 1e-5


def test_parameters_keep_their_type(checkpoint):
    """Catches: loading that changes the type of a model that was made in another."""
    config = pretrained.read_config(checkpoint[0])
    model = GPT2Model(config).bfloat16()
    pretrained.load_weights(model, checkpoint[0], config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_several_files(checkpoint, copy):
    """Catches: an index that is not followed."""
    shard(copy)
    assert torch.equal(states(GPT2Model.from_pretrained(copy)), states(GPT2Model.from_pretrained(checkpoint[0])))


@pytest.mark.parametrize("change", [
    lambda t: t.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 12, 12, dtype=torch.bool)}),
    lambda t: t.update({"transformer.h.1.attn.masked_bias": torch.tensor(-1e4)}),
    lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()}),
    lambda t: [t.update({name.removeprefix("transformer."): t.pop(name)}) for name in list(t)],
], ids=["causal mask", "masked bias", "tied output layer", "no prefix"])
def test_harmless_differences_between_checkpoints(checkpoint, copy, change):
    """Catches: a reader that refuses the hub's own gpt2, which has causal masks in it and no prefix."""
    edit_weights(copy, change)
    assert torch.equal(states(GPT2Model.from_pretrained(copy)), states(GPT2Model.from_pretrained(checkpoint[0])))


def test_a_model_with_buffers_of_its_own_is_loaded(checkpoint):
    """Catches: buffers, such as a stored causal mask, that are lost or left without values by loading."""
    class Buffered(GPT2Model):
        def __init__(self, config):
            super().__init__(config)
            self.register_buffer("causal", torch.ones(3, 3).tril(), persistent=False)

    assert torch.equal(Buffered.from_pretrained(checkpoint[0]).causal, torch.ones(3, 3).tril())


def test_parameters_that_no_file_holds_keep_their_initial_values(checkpoint):
    """Catches: a part such as the course's pooler_dense left with whatever was in memory, by any way to set it."""
    class Larger(GPT2Model):
        def __init__(self, config):
            super().__init__(config)
            self.pooler_dense = nn.Linear(48, 48)
            self.gpt_layers[0].scale = nn.Parameter(nn.init.constant_(torch.empty(3), 5.0))
            nn.init.normal_(self.pooler_dense.weight, mean=7.0, std=0.1)

    model = Larger.from_pretrained(checkpoint[0])
    assert torch.equal(model.gpt_layers[0].scale, torch.full((3,), 5.0))
    assert model.pooler_dense.weight.mean().item() == pytest.approx(7.0, abs=0.1)
    assert model.pooler_dense.bias.abs().max() < 1
    assert torch.equal(states(model), states(GPT2Model.from_pretrained(checkpoint[0])))


def test_a_model_with_wrong_parameters_is_refused(checkpoint):
    """Catches: a traceback for a renamed part, or one filled by broadcasting."""
    class Renamed(GPT2Model):
        def __init__(self, config):
            super().__init__(config)
            self.ln_f = self.final_layer_norm
            del self.final_layer_norm

    class Wider(GPT2Model):
        def __init__(self, config):
            super().__init__(config)
            self.final_layer_norm = nn.LayerNorm([2, config.hidden_size])

    for kind, said in ((Renamed, "Renamed has no parameter 'final_layer_norm.weight', 'final_layer_norm.bias'"),
                       (Wider, r"final_layer_norm.weight has shape \[2, 48\]; a GPT-2's is \[48\]")):
        with pytest.raises(PretrainedError, match="models/gpt2.py: .*" + said):
            kind.from_pretrained(checkpoint[0])


def test_a_backbone_can_be_given_to_a_constructor_that_loads_its_own(checkpoint):
    """Catches: arguments that get in the way, a patch that outlives its block or an error in it."""
    gpt = GPT2Model.from_pretrained(checkpoint[0])
    with pytest.raises(KeyError), pretrained.backbone_given(GPT2Model, gpt):
        assert GPT2Model.from_pretrained() is GPT2Model.from_pretrained("gpt2", d=768) is gpt
        raise KeyError
    assert GPT2Model.from_pretrained(checkpoint[0]) is not gpt


def test_without_init_spares_time_but_nothing_else():
    """Catches: random numbers drawn, or torch.nn.init left out of use afterwards."""
    before = torch.get_rng_state()
    with pretrained.without_init():
        nn.Embedding(1000, 10)
    assert torch.equal(torch.get_rng_state(), before)
    assert nn.Embedding(1000, 10).weight.std().item() == pytest.approx(1.0, abs=0.1)


# Refusing: (what to do to a copy of a good checkpoint, what the error must say)


def cut(name, keep):
    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:int(len(content) * keep)])
    return change


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def header(content, length=None):
    """A safetensors file with this header (and perhaps a lying length) and no data."""
    return struct.pack("<Q", len(content) if length is None else length) + content


def config_with(**changes):
    return lambda folder: edit_config(folder, **changes)


def weights_with(change):
    return lambda folder: edit_weights(folder, change)


def shards_with(change):
    def damage(folder):
        index = folder / "model.safetensors.index.json"
        files = shard(folder)
        change(folder, files)
        if index.is_file():
            index.write_text(json.dumps({"weight_map": files}))
    return damage


def replaced(name, value):
    return weights_with(lambda tensors: tensors.update({name: value}))


def poke(value):
    def change(tensors):
        tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] = value
    return weights_with(change)


def fifo(name):
    def change(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    return change


W, CONFIG = "model.safetensors", "config.json"
DAMAGES = {
    "weights: empty": (put(W, b""), "damaged or incomplete"),
    "weights: cut in the header": (cut(W, 0.001), "damaged or incomplete"),
    "weights: cut in the data": (cut(W, 0.9), "damaged or incomplete"),
    "weights: one byte short": (cut(W, 0.999999), "damaged or incomplete"),
    "weights: garbage": (put(W, os.urandom(5000)), "damaged or incomplete"),
    "weights: a web page": (put(W, b"<html>404</html>" * 99), "damaged or incomplete"),
    "weights: a pointer": (put(W, b"version https://git-lfs.github.com/spec/v1\n"), "damaged or incomplete"),
    "weights: header of 8 EB": (put(W, header(b"{}", 2 ** 63)), "damaged or incomplete"),
    "weights: header is no object": (put(W, header(b"[1]")), "damaged or incomplete"),
    "weights: nested deep": (put(W, header(b"[" * 100_000)), "damaged or incomplete"),
    "weights: offsets beyond": (put(W, header(
        b'{"wte.weight":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}')), "damaged or incomplete"),
    "weights: empty header": (put(W, header(b"{}")), "lack 'wte.weight', 'wpe.weight', 'h.0.ln_1.weight' and"),
    "weights: a folder": (lambda f: [(f / W).unlink(), (f / W).mkdir()], "does not hold a checkpoint"),
    "weights: a pipe": (fifo(W), "does not hold a checkpoint"),
    "weights: not there": (lambda f: (f / W).unlink(), "does not hold a checkpoint: model.safetensors"),
    "tensor: missing": (weights_with(lambda t: t.pop("transformer.h.1.ln_2.bias")), "lack 'h.1.ln_2.bias', which"),
    "tensor: unexpected": (replaced("transformer.h.0.ln_3.bias", torch.ones(2)), "hold 'h.0.ln_3.bias', unknown"),
    "tensor: of a third layer": (replaced("transformer.h.2.attn.bias", torch.ones(2)), "'h.2.attn.bias', unknown"),
    "tensor: terminal escapes": (replaced("transformer.\x1b[31mred", torch.ones(2)), r"'\\x1b\[31mred'"),
    "tensor: wrong shape": (replaced("transformer.ln_f.bias", torch.ones(47)), r"shape \[47\].*makes it \[48\]"),
    "tensor: not transposed": (weights_with(lambda t: t.update(
        {"transformer.h.0.mlp.c_fc.weight": t["transformer.h.0.mlp.c_fc.weight"].T.contiguous()})),
        r"shape \[192, 48\].*makes it \[48, 192\]"),
    "tensor: scalar": (replaced("transformer.ln_f.bias", torch.tensor(1.0)), r"shape \[\]"),
    "tensor: integers": (replaced("transformer.ln_f.bias", torch.ones(48).int()), "type 'I32'"),
    "tensor: float64": (replaced("transformer.ln_f.bias", torch.ones(48).double()), "type 'F64'"),
    "tensor: NaN": (poke(float("nan")), "h.1.mlp.c_fc.weight holds a number that is not finite"),
    "tensor: infinity": (poke(float("-inf")), "h.1.mlp.c_fc.weight holds a number that is not finite"),
    "tensor: a classifier of ours": (replaced("gpt.word_embedding.weight", torch.ones(2)), "export.py makes a folder"),
    "shards: one missing": (shards_with(lambda f, m: (f / "model-00002-of-00002.safetensors").unlink()),
                            "model-00002-of-00002.safetensors is missing"),
    "shards: one cut": (shards_with(lambda f, m: cut("model-00002-of-00002.safetensors", 0.5)(f)),
                        "model-00002-of-00002.safetensors: it is damaged"),
    "shards: one not listed": (shards_with(lambda f, m: m.pop("transformer.ln_f.bias")), "disagree.*ln_f.bias"),
    "shards: listed elsewhere": (shards_with(lambda f, m: m.update(
        {"transformer.ln_f.bias": "model-00001-of-00002.safetensors",
         "transformer.ln_f.weight": "model-00001-of-00002.safetensors"})), "disagree on where to find"),
    "shards: a path out": (shards_with(lambda f, m: m.update({"x": "../copy/model.safetensors"})),
                           "is not the name of a file beside it"),
    "shards: an absolute path": (shards_with(lambda f, m: m.update({"x": "/etc/passwd.safetensors"})),
                                 "is not the name of a file beside it"),
    "shards: no names": (shards_with(lambda f, m: m.update({"x": 3})), "no weight_map from tensors to files"),
    "index: a list": (shards_with(lambda f, m: (f / "model.safetensors.index.json").write_text("[]") and m.clear()),
                      "no weight_map|lack"),
    "config: not there": (lambda f: (f / CONFIG).unlink(), "does not hold a checkpoint: config.json"),
    "config: empty": (put(CONFIG, b""), "config.json is damaged"),
    "config: cut": (cut(CONFIG, 0.5), "config.json is damaged"),
    "config: a list": (put(CONFIG, b"[]"), "does not hold a JSON object"),
    "config: nested deep": (put(CONFIG, b"[" * 100_000), "config.json is damaged"),
    "config: a number of 5000 digits": (put(CONFIG, b'{"n_embd": ' + b"9" * 5000 + b"}"), "config.json is damaged"),
    "config: no UTF-8": (put(CONFIG, b'{"a": "\xff"}'), "config.json is damaged"),
    "config: large": (put(CONFIG, b'{"a": "' + b"a" * (33 << 20) + b'"}'), "larger than 32 MB"),
    "config: a pipe": (fifo(CONFIG), "does not hold a checkpoint: config.json"),
    "config: another model": (config_with(model_type="llama"), "not a GPT-2's: its model_type is 'llama'"),
    "config: no model": (config_with(model_type=None), "not a GPT-2's"),
    "config: fewer layers": (config_with(n_layer=1), "unknown to the GPT-2 that config.json describes"),
    "config: more layers": (config_with(n_layer=3), "lack 'h.2.ln_1.weight'"),
    "config: a billion layers": (config_with(n_layer=10 ** 9), "n_layer must be an integer from 1 to 1000"),
    "config: immense width": (config_with(n_embd=10 ** 12), "n_embd must be an integer"),
    "config: large width": (config_with(n_embd=10 ** 6, n_head=4), r"makes it \[61, 1000000\]"),
    "config: width of text": (config_with(n_embd="48"), "n_embd must be an integer"),
    "config: no heads": (config_with(n_head=0), "n_head must be an integer"),
    "config: heads missing": (config_with(n_head=None), "n_head must be an integer"),
    "config: heads true": (config_with(n_head=True), "n_head must be an integer"),
    "config: heads do not divide": (config_with(n_head=5), "n_embd .48. must be a multiple of n_head"),
    "config: other inner width": (config_with(n_inner=100), r"makes it \[48, 100\]"),
    "config: inner width of text": (config_with(n_inner="100"), "json: n_inner must be a positive integer"),
    "config: dropout of text": (config_with(resid_pdrop="0.1"), "json: resid_pdrop must be a number .* not '0.1'"),
    "config: dropout of 2": (config_with(attn_pdrop=2), "json: attn_pdrop must be a number from 0 to 1, not 2"),
    "config: an epsilon beyond float32": (config_with(layer_norm_epsilon=1e300), "layer_norm_epsilon must be a number"),
    "config: an epsilon of true": (config_with(layer_norm_epsilon=True), "layer_norm_epsilon must be .* not True"),
    "config: an epsilon of 400 digits": (config_with(layer_norm_epsilon=10**400), "layer_norm_epsilon must be"),
    "config: a list of ranges": (config_with(initializer_range=[0.02] * 999), "initializer_range must be a number"),
    "config: relu": (config_with(activation_function="relu"), "activation_function is 'relu'; this GPT-2 knows only"),
    "config: erf gelu": (config_with(activation_function="gelu"), "activation_function is 'gelu'"),
    "config: unscaled": (config_with(scale_attn_weights=False), "scale_attn_weights is 'False'"),
    "config: scaled by layer": (config_with(scale_attn_by_inverse_layer_idx=True), "by_inverse_layer_idx is 'True'"),
    "config: cross attention": (config_with(add_cross_attention=True), "add_cross_attention is 'True'"),
    "config: half tied": (config_with(tie_word_embeddings=0.5), "tie_word_embeddings is '0.5'"),
    "config: pruned": (config_with(pruned_heads={"0": [1]}), "pruned_heads is"),
    "config: quantised": (config_with(quantization_config={"bits": 4}), "quantization_config is"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused(damage, copy):
    """Catches: a traceback, a hang, or a model with wrong numbers, where the files are not right."""
    change, said = DAMAGES[damage]
    change(copy)
    with pytest.raises(PretrainedError, match=said) as caught:
        GPT2Model.from_pretrained(copy)
    message = str(caught.value)
    assert str(copy) in message and message.count("\n") <= 1 and len(message) < 600
    assert message.isprintable() or "\n" in message


def test_the_same_numbers_in_another_order_are_accepted(copy):
    """Catches: a reader so strict that it refuses settings which change nothing."""
    edit_config(copy, activation_function="gelu_pytorch_tanh", reorder_and_upcast_attn=True, n_inner=None)
    GPT2Model.from_pretrained(copy)


# Writing


def small_model(**changes):
    shape = {"vocab_size": 50, "max_position_embeddings": 16, "hidden_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4}
    return randomise(GPT2Model(GPT2Config(**{**shape, **changes})), scale=0.2).eval()


@pytest.mark.parametrize("changes", [{}, {"intermediate_size": 30, "layer_norm_eps": 1e-3}], ids=str)
def test_hugging_face_reads_what_we_write(tmp_path, changes):
    """Catches: a name, transpose or setting that only our own reader understands."""
    transformers = pytest.importorskip("transformers")
    model = small_model(**changes)
    pretrained.save_pretrained(model, tmp_path / "new" / "folder")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "folder",
                                                                       output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        want = theirs.eval()(IDS, attention_mask=MASK).logits
        assert difference(model.hidden_state_to_token(states(model)), want) < 1e-5
    again = GPT2Model.from_pretrained(tmp_path / "new" / "folder")
    assert again.config == model.config
    assert torch.equal(states(again), states(model))


def test_dropout_survives_a_round_trip(tmp_path):
    """Catches: a setting written under another name than it is read."""
    model = small_model(hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.5)
    pretrained.save_pretrained(model, tmp_path)
    assert pretrained.read_config(tmp_path) == model.config


def test_float16_files(tmp_path):
    """Catches: a type that is announced and not written, or rounding beyond float16's."""
    model = small_model()
    pretrained.save_pretrained(model, tmp_path / "half", dtype=torch.float16)
    pretrained.save_pretrained(model, tmp_path / "full")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / W).values()} == {torch.float16}
    assert json.loads((tmp_path / "half" / CONFIG).read_text())["dtype"] == "float16"
    assert (tmp_path / "half" / W).stat().st_size < 0.55 * (tmp_path / "full" / W).stat().st_size
    assert 0 < difference(states(GPT2Model.from_pretrained(tmp_path / "half")), states(model)) < 2e-2


@pytest.fixture
def tokenizer_file(tmp_path):
    """A lower-casing byte-level BPE of 50 tokens, with an end of text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(["a good film , a very good film"] * 9, trainers.BpeTrainer(
        vocab_size=50, special_tokens=["<|endoftext|>"], show_progress=False))
    tokenizer.save(str(tmp_path / "source.json"))
    return tmp_path / "source.json"


def test_hugging_face_reads_our_tokenizer(tmp_path, tokenizer_file):
    """Catches: a tokenizer class that drops the normaliser, or special tokens with other numbers."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    folder = tmp_path / "model"
    pretrained.save_pretrained(small_model(), folder, tokenizer_file=tokenizer_file)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "A GOOD film"
    assert tokenizer(text)["input_ids"] == Tokenizer.from_file(str(tokenizer_file)).encode(text).ids
    config = json.loads((folder / CONFIG).read_text())
    assert config["eos_token_id"] == config["bos_token_id"] == tokenizer.eos_token_id == 0
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == "a good film"
    assert tokenizer.model_max_length == 16
    pretrained.save_pretrained(small_model(), folder, tokenizer_file=folder / "tokenizer.json")  # onto itself
    assert (folder / "tokenizer.json").read_bytes() == tokenizer_file.read_bytes()
    assert {path.name for path in folder.iterdir()} == {CONFIG, W, "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"added_tokens": [1]}', '{"added_tokens": []}'])
def test_a_wrong_tokenizer_is_refused_before_anything_is_written(tmp_path, content):
    """Catches: weights written beside a tokenizer that nobody can read."""
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(PretrainedError, match=r"tokenizer\.json"):
        pretrained.save_pretrained(small_model(), tmp_path / "model", tokenizer_file=tmp_path / "tokenizer.json")
    assert not (tmp_path / "model").exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    """Catches: a traceback where the place to write to is a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        pretrained.save_pretrained(small_model(), tmp_path / "file" / "model")


def test_an_interrupted_write_leaves_the_old_weights(tmp_path, monkeypatch):
    """Catches: weights overwritten in place, so that a full disk destroys the old and the new."""
    pretrained.save_pretrained(small_model(), tmp_path)
    before = (tmp_path / W).read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save_file", fail)
    with pytest.raises(UserError, match="No space left"):
        pretrained.save_pretrained(small_model(), tmp_path)
    assert (tmp_path / W).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG, W}


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path):
    """Catches: weights that only their owner can read, as safetensors writes them."""
    pretrained.save_pretrained(small_model(), tmp_path)
    assert (tmp_path / W).stat().st_mode == (tmp_path / CONFIG).stat().st_mode


# Memory


MEASURE = """
import resource, sys, torch
from models.gpt2 import GPT2Model
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
model = GPT2Model.from_pretrained(sys.argv[1])
print((peak() - before) * 1024, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in bytes elsewhere")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_loading_needs_little_more_than_the_weights(tmp_path, root, dtype):
    """Catches: a whole second copy in memory: a state_dict, a random model, or a file mapped to the end."""
    pretrained.save_pretrained(GPT2Model(GPT2Config()), tmp_path, dtype=dtype)
    out = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], cwd=root, capture_output=True, check=True)
    used, weights = map(int, out.stdout.split())
    assert weights == 124_439_808 * 4
    assert used < 1.3 * weights + 300e6
