"""The graded tests of models/gpt2.py: right files pass them all, wrong ones fail those that name their fault."""

import numpy as np
import pytest

from staff.grader.case import CASES, generator
from staff.grader.cases import model
from staff.grader.grade import SUPPORT, run_case
from staff.grader.oracles import layer
from tests.contract.trial import MISTAKES, ROOT, SETS, names

FILE = "models/gpt2.py"
MODEL = [case for case in CASES.values() if case.component == "model"]
OURS = {FILE: (ROOT / FILE).read_bytes()}


def files_of(set_name: str) -> dict[str, bytes]:
    """Return models/gpt2.py of a set, with what its author brought along."""
    paths = {name: SETS / set_name / name for name in (FILE, *SUPPORT)}
    return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


def failed(files, box, seed=b"seed") -> dict[str, str]:
    """Return the tests that fail: name -> status and what was measured."""
    outcomes = {case.name.partition(".")[2]: run_case(case, files, box, seed) for case in MODEL}
    return {name: f"{outcome.status}: {outcome.measured}" for name, outcome in outcomes.items() if not outcome.passed}


def edited(*edits: tuple[str, str]) -> dict[str, bytes]:
    """Return our models/gpt2.py with pieces of text replaced, each of which must be there once."""
    source = OURS[FILE].decode()
    for old, new in edits:
        assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in {FILE}: mend this mistake"
        source = source.replace(old, new)
    return {FILE: source.encode()}


@pytest.mark.parametrize("set_name", ["ours", *names()])
def test_right_files_pass(box, set_name):
    assert failed(OURS if set_name == "ours" else files_of(set_name), box, seed=set_name.encode()) == {}


EMBED = "self.embed_dropout(self.word_embedding(input_ids) + self.pos_embedding(positions))"
LOOP = "for layer in self.gpt_layers:\n            hidden_states = layer(hidden_states, mask)"
MASK = "mask = padding.to(hidden_states.dtype) * torch.finfo(hidden_states.dtype).min"
NORM = "self.final_layer_norm(self.encode(self.embed(input_ids), attention_mask))"
STACK = "nn.ModuleList(GPT2Layer(config) for _ in range(config.num_hidden_layers))"
LAST = "last_token = hidden_states[torch.arange(B, device=input_ids.device), last]"
OUT = "hidden_state @ self.word_embedding.weight.T"
WORDS, POSITIONS = "self.word_embedding(input_ids)", "self.pos_embedding(positions)"

WRONG = {  # mistake: (what is replaced, by what, the tests that fail; no others)
    "no positions": (EMBED, f"self.embed_dropout({WORDS})", "embed embed_lengths gradients"),
    "positions from 1": (POSITIONS, "self.pos_embedding(positions + 1)", "embed embed_lengths"),
    "dropout on each term": (EMBED, f"self.embed_dropout({WORDS}) + self.embed_dropout({POSITIONS})", "embed_dropout"),
    "dropout has its own p": ("nn.Dropout(config.hidden_dropout_prob)", "nn.Dropout(0.1)", "embed_dropout"),
    "no final norm": (NORM, "self.encode(self.embed(input_ids), attention_mask)",
                      "final_layer_norm forward gradients"),
    "eps of another size": ("eps=config.layer_norm_eps", "eps=1e-12", "final_layer_norm"),
    "backwards": (LOOP, LOOP.replace("self.gpt_layers", "reversed(self.gpt_layers)"), "layers forward"),
    "first layer only": (LOOP, LOOP.replace("self.gpt_layers", "self.gpt_layers[:1]"), "layers mask forward gradients"),
    "mask ignored": (MASK, "mask = padding * 0.0", "mask forward"),
    "one too far": (LAST, LAST.replace("device), last]", "device), (last + 1) % T]"), "last_token"),
    "not transposed": (OUT, "hidden_state @ self.word_embedding.weight[:hidden_state.shape[-1]]",
                       "output_layer output_layer_shapes"),
    "batches only": (OUT, "torch.einsum('btd,vd->btv', hidden_state, self.word_embedding.weight)",
                     "output_layer_shapes"),
    "no gradient": (NORM, NORM.replace("self.embed(input_ids)", "self.embed(input_ids).detach()"), "gradients"),
}
MORE_WRONG = {
    "position 0 everywhere": (POSITIONS, "self.pos_embedding(positions * 0)", "embed embed_lengths"),
    "positions by row": (POSITIONS, "self.pos_embedding(positions + torch.arange(len(input_ids))[:, None] % 2 * "
                                    "(T < longest))", "embed embed_lengths"),
    "no dropout": (EMBED, f"{WORDS} + {POSITIONS}", "embed_dropout"),
    "dropout on one term": (EMBED, f"self.embed_dropout({WORDS}) + {POSITIONS}", "embed_dropout"),
    "scaled": (WORDS, f"5 * {WORDS}", "embed embed_lengths"),
    "norm after embed": (EMBED, f"self.final_layer_norm({EMBED})", "embed embed_lengths embed_dropout"),
    "final norm twice": (NORM, f"self.final_layer_norm({NORM})", "final_layer_norm forward"),
    "one layer, shared": (STACK, "nn.ModuleList([GPT2Layer(config)] * config.num_hidden_layers)", "layers forward"),
    "mask the wrong way round": (MASK, MASK.replace("padding.", "(~padding)."), "mask forward"),
    "mask too weak": (MASK, "mask = padding * -1.0", "mask forward"),
    "mask of 1 and 0": (MASK, "mask = 1.0 * ~padding", "mask forward"),
    "last position": (LAST, "last_token = hidden_states[:, -1]", "last_token"),
    "mean": (LAST, "last_token = hidden_states.mean(dim=1)", "last_token"),
    "a module has no T": (OUT, "hidden_state @ self.word_embedding.T", "output_layer output_layer_shapes"),
}


@pytest.mark.parametrize("name", [*WRONG, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_WRONG)])
def test_wrong_files_fail_the_tests_of_their_fault_alone(box, name):
    *edit, tests = (WRONG | MORE_WRONG)[name]
    assert sorted(failed(edited(edit), box)) == sorted(tests.split())


def test_every_test_can_fail():
    assert {test for *_, tests in WRONG.values() for test in tests.split()} == {case.name[6:] for case in MODEL}


@pytest.mark.parametrize("mistake", [known["name"] for known in MISTAKES if known["file"] == FILE])
def test_known_mistakes_in_other_hands_fail(box, mistake):
    known = next(known for known in MISTAKES if known["name"] == mistake)
    files = files_of(known["set"])
    files[FILE] = files[FILE].replace(known["old"].encode(), known["new"].encode())
    assert not all(run_case(case, files, box, b"seed").passed for case in MODEL)  # stops at the first that fails


def test_unfinished_methods_are_not_implemented(box):
    todo = edited((f"return {EMBED}", "raise NotImplementedError"), (f"return {OUT}", "raise NotImplementedError"))
    said = failed(todo, box)
    assert "layers" not in said and "mask" not in said
    assert all(text.startswith("not implemented") for text in said.values())
    assert set(said) == {"embed", "embed_lengths", "embed_dropout", "final_layer_norm", "forward", "last_token",
                         "gradients", "output_layer", "output_layer_shapes"}


def test_final_norm_may_be_in_encode(box):
    """The contract does not say which of the two methods applies it."""
    end = "return {}\n        # END SOLUTION\n\n    def forward"
    moved = edited((NORM, "self.encode(self.embed(input_ids), attention_mask)"),
                   (end.format("hidden_states"), end.format("self.final_layer_norm(hidden_states)")))
    assert failed(moved, box) == {}


@pytest.mark.parametrize("name", [case.name for case in MODEL])
def test_inputs_differ_by_seed_and_are_small(name):
    one, two = (next(CASES[name].function(generator(seed, name))).arrays() for seed in (b"a", b"b"))
    assert any(not np.array_equal(one[key], two[key]) for key in one)
    assert sum(array.nbytes for array in one.values()) < 100_000


def test_oracle_is_hugging_faces_gpt2():
    """Embedding, layers and final norm of the oracles, with real layers, against transformers.GPT2Model."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=37, n_positions=12, n_embd=24, n_layer=3, n_head=4,
                                     attn_implementation="eager", bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2Model(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
    inputs, rng = model.example(generator(b"parity", "model")), np.random.default_rng(0)
    ids, mask = model.texts(rng, inputs), model.holes(rng)
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}

    # Hugging Face's names, and its Conv1D weights [in, out], as ours.
    inputs |= {"nh": 4, "word_embedding.weight": weights["wte.weight"], "pos_embedding.weight": weights["wpe.weight"],
               "mask": np.where(mask == 0, -1e9, 0.0)[:, None, None, :]}
    ours = {"ln_f": "final_layer_norm"}
    for i in range(3):
        ours |= {f"h.{i}.ln_1": f"gpt_layers.{i}.attention_layer_norm", f"h.{i}.ln_2": f"gpt_layers.{i}.out_layer_norm",
                 f"h.{i}.attn.c_proj": f"gpt_layers.{i}.attention_dense",
                 f"h.{i}.mlp.c_fc": f"gpt_layers.{i}.interm_dense", f"h.{i}.mlp.c_proj": f"gpt_layers.{i}.out_dense"}
        for kind in ("weight", "bias"):
            parts = np.split(weights[f"h.{i}.attn.c_attn.{kind}"], 3, axis=-1)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                inputs[f"gpt_layers.{i}.self_attention.{name}.{kind}"] = part.T
    for name, our in ours.items():
        inputs |= {f"{our}.weight": weights[f"{name}.weight"].T, f"{our}.bias": weights[f"{name}.bias"]}

    x = model.embedded(inputs, ids)
    for i in range(3):
        x = layer(inputs, "tanh", x, f"gpt_layers.{i}.")
    with torch.no_grad():
        want = theirs(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask),
                      position_ids=torch.arange(7)[None]).last_hidden_state.numpy()
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(model.final_norm(inputs, x), want, atol=1e-9)
