"""The model of a run: the student's classifier around a backbone, what of it is trained, and who computes it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from classifier import GPT2SentimentClassifier
from common.errors import UserError
from engine.adamw import FastAdamW
from engine.gpt2 import FastGPT2
from finetuning.features import StoredFeatures
from finetuning.model import Engine, Model, WordDropout, make_backbone, make_model
from finetuning.recipes import Recipe
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from models.pretrained import backbone_given
from modules.gpt2_layer import GPT2Layer
from optimizer import AdamW
from tests.finetuning.kinds import Apart, Forgetful, Mean, Plain
from tests.finetuning.test_run import MODES, settings_for
from tests.mutants import mutate
from training.machine import Machine

FROZEN, FULL = MODES
IDS, MASK = torch.tensor([[5, 6, 7], [8, 9, 279]]), torch.tensor([[1, 1, 1], [1, 1, 0]])


def make(folder, mode, kind=GPT2SentimentClassifier, **changes):
    """The model of a run with these settings."""
    settings = settings_for(folder, Path("nowhere"), fine_tune_mode=mode, **changes)
    task, = settings.tasks()
    engine = Engine.choose(settings, Machine())
    torch.manual_seed(settings.seed)
    return make_model(kind, settings, task, settings.recipe(task), folder / "model", engine)


def test_an_unknown_mode_is_refused():
    """Catches: a typing error in the mode, after which all of GPT-2 is trained, or nothing."""
    with pytest.raises(ValueError, match="must be last-linear-layer or full-model, not 'frozen'"):
        GPT2SentimentClassifier(SimpleNamespace(fine_tune_mode="frozen"))


def served_by(model):
    """The engine that answers in the backbone's place, and as what; None where the definition does."""
    forward = model.gpt.forward
    return (forward.__self__, forward.__name__) if isinstance(forward.__self__, FastGPT2) else None


def build(config, gpt):
    with backbone_given(GPT2Model, gpt):
        return GPT2SentimentClassifier(config)


# ---- what is trained -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, head_lr, rates", [
    ("last-linear-layer", None, ["head"]), ("full-model", None, ["all"]), ("full-model", 1.0, ["gpt", "head"])])
def test_what_is_trained_at_which_rate(mode, head_lr, rates):
    """Catches a head that is trained twice or not at all, a frozen backbone handed to the optimizer, rates swapped."""
    config = GPT2Config(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    classifier = build(SimpleNamespace(num_labels=2, hidden_size=8, hidden_dropout_prob=0.1, fine_tune_mode=mode),
                       GPT2Model(config))
    model = Model(classifier, classifier.gpt, "code", features_will_do=mode == FROZEN)
    groups = model.parameter_groups(Recipe(lr=0.1, head_lr=head_lr))
    parts = {"head": classifier.head, "gpt": classifier.gpt, "all": classifier}
    wanted = [[id(p) for p in parts[name].parameters()] for name in rates]
    assert [[id(p) for p in group["params"]] for group in groups] == wanted
    assert [group.get("lr") for group in groups] == ([None, head_lr] if head_lr else [None])


def head_config(mode, p=0.3):
    return SimpleNamespace(num_labels=5, hidden_size=32, hidden_dropout_prob=p, fine_tune_mode=mode)


def test_a_frozen_backbone_stays_frozen(folder):
    """Catches dropout in a frozen backbone (as in the course's starter) and gradients that cost half the time."""
    model = build(head_config(FROZEN), GPT2Model.from_pretrained(str(folder / "model")))
    assert model.training and model.head.training and model.train() is model
    assert not any(module.training for module in model.gpt.modules())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.1.weight", "head.1.bias"}
    assert not any(module.training for module in model.eval().modules())


def test_a_full_model_trains_everything(folder):
    """Catches a backbone left in eval mode by from_pretrained, and parameters left out."""
    model = build(head_config(FULL), GPT2Model.from_pretrained(str(folder / "model")))
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    logits = model(IDS, MASK)
    assert logits.shape == (2, 5)
    logits.sum().backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused == set()


def test_only_two_modes():
    """Catches a misspelt mode taken for one of the two."""
    with pytest.raises(ValueError, match="last-linear-layer or full-model, not 'pretrain'"):
        build(head_config("pretrain"), None)


def test_dropout_and_random_weights_of_the_backbone(folder, tmp_path):
    """Catches --backbone-dropout or --word-dropout that never reaches the backbone (as in the course's starter), and a
    random backbone that is the pretrained one, or of another shape.
    """
    def backbone(**changes):
        settings = settings_for(folder, tmp_path, **changes)
        return make_backbone(settings, settings.recipe(settings.tasks()[0]), folder / "model")

    plain, config = backbone(backbone_dropout=0.25)
    assert {module.p for module in plain.modules() if hasattr(module, "p")} == {0.25}
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.25, 0.25)
    assert plain.train().word_embedding(torch.arange(9)).ne(0).all()
    blank, _ = backbone(word_dropout=1.0, fine_tune_mode=FULL)
    assert blank.train().word_embedding(torch.arange(9)).eq(0).all()
    assert blank.eval().word_embedding(torch.arange(9)).ne(0).all()
    assert blank.state_dict().keys() == plain.state_dict().keys()
    torch.manual_seed(5)
    random, _ = backbone(random_backbone=True)
    for (name, ours), theirs in zip(random.named_parameters(), plain.parameters(), strict=True):
        assert ours.shape == theirs.shape
        assert "norm" in name or "bias" in name or not torch.equal(ours, theirs)


def test_frozen_means_frozen_whoever_wrote_the_classifier(folder):
    """Catches: dropout in the frozen backbone of a classifier without a train() of its own, as the course's starter."""
    for kind in (Plain, Mean, GPT2SentimentClassifier):
        model = make(folder, FROZEN, kind)
        model.classifier.train()
        assert model.classifier.training and not any(module.training for module in model.gpt.modules())
        model = make(folder, FULL, kind)
        model.classifier.train()
        assert all(module.training for module in model.gpt.modules())


def test_a_frozen_word_embedding_whatever_the_classifier_sets(folder):
    """Catches: a classifier that makes all of GPT-2 trainable, and with it the words that were to stay."""
    for kind in (Plain, GPT2SentimentClassifier):
        model = make(folder, FULL, kind, freeze_word_embedding="yes")
        assert {name for name, p in model.gpt.named_parameters() if not p.requires_grad} == {"word_embedding.weight"}


def test_a_classifier_that_keeps_no_backbone(folder):
    """Catches: a backbone that would be neither trained nor saved nor moved to the device, without a word."""
    with pytest.raises(UserError, match=r"classifier\.py: .*must keep the model .* as a part of itself"):
        make(folder, FULL, Apart)


def test_a_classifier_that_forgets_to_freeze(folder, capsys):
    """Catches: a mistake of the student's that is mended in silence, or not told."""
    said = "classifier.py leaves GPT-2's weights to be trained, in last-linear-layer mode too: so they are"
    model = make(folder, FROZEN, Forgetful)
    assert said in capsys.readouterr().out and not model.features_will_do
    trained = {id(p) for p in model.parameter_groups(Recipe(lr=0.1))[0]["params"]}
    assert trained == {id(p) for p in model.classifier.parameters()}
    make(folder, FULL, Forgetful)
    assert said not in capsys.readouterr().out


# ---- who computes it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, kind, way, features", [
    (FULL, GPT2SentimentClassifier, "last_token", False), (FROZEN, GPT2SentimentClassifier, "last_token", True),
    (FULL, Plain, "last_token", False), (FROZEN, Plain, "last_token", True),
    (FULL, Mean, "all_tokens", False), (FROZEN, Mean, "all_tokens", False), (FROZEN, Forgetful, "last_token", False)])
def test_the_engine_serves_as_much_as_the_classifier_reads(folder, capsys, mode, kind, way, features):
    """Catches: an engine that answers with less than is read, or with more and so slower; features stored where they
    will not do, or not stored where they will.
    """
    model = make(folder, mode, kind)
    assert served_by(model)[1] == way and served_by(model)[0].gpt is model.gpt
    assert model.features_will_do is features
    printed = capsys.readouterr().out
    assert ("GPT-2 runs again in every epoch" in printed) == (mode == FROZEN and kind is Mean)
    assert "engine: agrees with your code to " in printed
    without = make(folder, mode, kind, engine="off")
    assert served_by(without) is None and "engine: off, your code runs" in capsys.readouterr().out
    with torch.no_grad():
        for ours, want in zip(model.classifier.eval()(IDS, MASK), without.classifier.eval()(IDS, MASK), strict=True):
            torch.testing.assert_close(ours, want, rtol=0, atol=1e-5)


def test_stored_features_take_the_backbones_place(folder):
    """Catches: a backbone that stays in the classifier and so in every checkpoint, wherever the classifier keeps it."""
    class Deep(Plain):
        def __init__(self, config):
            super().__init__(config)
            self.parts = nn.ModuleList([nn.Identity(), self.gpt])

    for kind in (Plain, Deep):
        model = make(folder, FROZEN, kind)
        vectors = model.gpt(IDS, MASK)["last_token"].detach()
        want = model.classifier.eval()(IDS, MASK)
        model.use_features()
        assert not any(module is model.gpt for module in model.classifier.modules())
        assert sum(isinstance(module, StoredFeatures) for module in model.classifier.modules()) >= 1
        assert set(model.classifier.state_dict()) == {"linear.weight", "linear.bias"}
        torch.testing.assert_close(model.classifier(vectors, torch.ones(1, 1)), want)


@pytest.mark.parametrize("engine", ["auto", "off"])
def test_gradient_checkpointing_reaches_whoever_computes(folder, engine):
    """Catches: a flag that is read and then forgotten, by the engine or by the student's code."""
    for wanted in (True, False):
        model = make(folder, FULL, engine=engine, gradient_checkpointing=wanted)
        recomputed = [hasattr(layer.forward, "__wrapped__") for layer in model.gpt.gpt_layers]
        if engine == "auto":
            assert served_by(model)[0].recompute is wanted and not any(recomputed)
        else:
            assert recomputed == [wanted] * 2


def test_the_engine_that_was_chosen(folder, tmp_path, monkeypatch, capsys):
    """Catches: an optimizer or a backbone of the engine's in spite of a difference, of --engine off or of --shard; and
    a sharded run that may not be resumed without --shard.
    """
    settings = settings_for(folder, tmp_path)
    engine = Engine.choose(settings, Machine())
    assert engine.optimizer is FastAdamW and engine.identity == {"gpt2": True, "adamw": True}
    sharded = Engine.choose(settings_for(folder, tmp_path, shard=True), Machine())
    assert sharded.optimizer is AdamW and sharded.identity == engine.identity
    assert served_by(make(folder, FULL, shard=True)) is None
    off = Engine.choose(settings_for(folder, tmp_path, engine="off"), Machine())
    assert off.optimizer is AdamW and off.identity == {"gpt2": False, "adamw": False}
    monkeypatch.setattr(AdamW, "step", mutate("optimizer.py", ("(beta1).add_", "(beta2).add_")).AdamW.step)
    engine = Engine.choose(settings, Machine())
    assert engine.optimizer is AdamW and engine.identity == {"gpt2": True, "adamw": False}
    said = "agrees", "agrees", "not used with --shard, your code runs", "agrees", "not used with --shard, your code " \
        "runs", "off, your code runs", "optimizer.py differs"
    lines = capsys.readouterr().out.splitlines()
    assert [line[:len(f"engine: {words}")] for line, words in zip(lines, said, strict=True)] \
        == [f"engine: {words}" for words in said]


def test_the_exact_gelu_is_served_in_its_own_form(folder, monkeypatch, capsys):
    """Catches: the tanh form computed for a student who wrote the exact one, which the course accepts."""
    exact = mutate("modules/gpt2_layer.py", ('approximate="tanh"', 'approximate="none"'))
    monkeypatch.setattr(GPT2Layer, "forward", exact.GPT2Layer.forward)
    model = make(folder, FULL)
    assert served_by(model)[0].gelu == "none" and "(GELU in its exact form)" in capsys.readouterr().out


def test_the_code_is_seen_by_what_it_computes(folder, monkeypatch):
    """Catches: stored features of other code, another number of heads or the engine's taken for these; and a code that
    changes from run to run, so that nothing would ever be reused.
    """
    codes = [make(folder, FROZEN).code, make(folder, FROZEN, engine="off").code]
    assert codes == [make(folder, FROZEN).code, make(folder, FROZEN, engine="off").code]
    config = folder / "model" / "config.json"
    other = folder / "more heads"
    other.mkdir()
    for path in config.parent.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "config.json").write_text(config.read_text().replace('"n_head": 2', '"n_head": 4'))
    settings = settings_for(folder, Path("nowhere"), model=str(other))
    task, = settings.tasks()
    codes.append(make_model(GPT2SentimentClassifier, settings, task, settings.recipe(task), other,
                            Engine.choose(settings, Machine())).code)
    for new in (" * 0", " * 1.00001"):
        forward = mutate("modules/gpt2_layer.py", ("return x + self.out_dropout(self.out_dense(inner))",
                                                   f"return (x + self.out_dropout(self.out_dense(inner))){new}"))
        monkeypatch.setattr(GPT2Layer, "forward", forward.GPT2Layer.forward)
        codes.append(make(folder, FROZEN).code)
    assert len(set(codes)) == 5


def test_building_a_model_draws_as_if_nothing_were_compared(folder):
    """Catches: comparisons with the engine that move PyTorch's generator, so that --engine decides the head's weights
    and every dropout after them.
    """
    drawn = []
    for engine in ("auto", "off"):
        model = make(folder, FULL, engine=engine)
        drawn.append((model.classifier.head[1].weight, torch.rand(3)))
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])


# ---- word dropout ----------------------------------------------------------------------------------------------------


def test_words_are_blanked_whole():
    """Catches: single numbers dropped, all texts losing the same words, a rate of 1 - p, words scaled up."""
    torch.manual_seed(0)
    embedding = nn.Embedding(50, 8)
    ids = torch.randint(50, (200, 300))
    plain = embedding(ids)
    embedding.register_forward_hook(WordDropout(0.2))
    vectors = embedding(ids)
    blank = vectors.eq(0).all(dim=-1)
    torch.testing.assert_close(vectors, plain * ~blank[..., None], rtol=0, atol=0)
    assert abs(blank.double().mean().item() - 0.2) < 5 * (0.2 * 0.8 / ids.numel()) ** 0.5
    assert blank.sum(dim=0).max() < 100 and blank.sum(dim=1).max() < 150


def test_blank_words_learn_nothing_and_evaluation_has_none():
    """Catches: gradients for words that were not there, blanks in eval mode, p = 0 or 1 off by a comparison."""
    embedding = nn.Embedding(6, 4)
    plain = embedding(torch.arange(6)[None])
    hook = WordDropout(0.5)
    embedding.register_forward_hook(hook)
    assert torch.equal(embedding.eval()(torch.arange(6)[None]), plain)
    torch.manual_seed(1)
    vectors = embedding.train()(torch.arange(6)[None])
    vectors.sum().backward()
    assert torch.equal(embedding.weight.grad.eq(0), vectors[0].eq(0)) and 0 < vectors[0].eq(0).sum() < 24
    for p, share in ((0.0, 0.0), (1.0, 1.0)):
        hook.p = p
        assert embedding(torch.arange(6)[None]).eq(0).double().mean() == share
