"""The model of a run: the student's classifier, with a checkpoint's weights, served by the engine where it agrees."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

import torch
from torch import Tensor, nn

from common.errors import UserError
from data.tasks import Task
from engine import agree
from engine.adamw import FastAdamW
from engine.agree import Agreement
from engine.gpt2 import FastGPT2
from finetuning.features import LastToken, StoredFeatures
from finetuning.recipes import Recipe
from finetuning.settings import Settings
from models import pretrained
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from optimizer import AdamW
from training.evaluate import leaves_model_as_found
from training.machine import Machine
from training.memory import recompute_in_backward
from training.runs.tensor_file import hash_tensors

SMALL = GPT2Config(vocab_size=50, max_position_embeddings=16, hidden_size=24, num_hidden_layers=3,
                   num_attention_heads=3)
"""The shape of the models with which engine and definition are compared."""
REAL_TOLERANCE = 1e-3
"""Of logits, where engine and definition have the checkpoint's weights: more layers for rounding to grow in."""


@dataclass(frozen=True)
class Engine:
    """What of the engine agrees with the student's files, and so may serve; None where it was not asked."""

    gpt2: Agreement | None = None
    adamw: Agreement | None = None
    sharded: bool = False
    "The definition runs all the same: the engine knows nothing of weights in parts."

    @classmethod
    def choose(cls, settings: Settings, machine: Machine) -> "Engine":
        """Compare the engine with the student's files, and print how that went."""
        if settings.engine == "off":
            print("engine: off, your code runs")
            return cls()
        small = GPT2Model(SMALL).to(machine.device)
        gpt2, adamw = agree.check(small, SMALL.num_attention_heads, SMALL.vocab_size, AdamW)
        if settings.shard:
            print("engine: not used with --shard, your code runs")
        return cls(gpt2, adamw, settings.shard)

    @property
    def optimizer(self) -> Callable[..., torch.optim.Optimizer]:
        """The AdamW to train with."""
        return FastAdamW if self.adamw and not self.sharded else AdamW

    @property
    def identity(self) -> dict[str, bool]:
        """What decides a run's results. Sharding does not: it changes the order of sums, as the engine does."""
        return {"gpt2": bool(self.gpt2), "adamw": bool(self.adamw)}


class WordDropout:
    """A forward hook for a token embedding: in training a word's whole vector is zero with probability p.

    The position stays, the word is blank, so that no single word can decide. The other words are not scaled up: in
    evaluation they look the same, only more of them are there. Iyyer et al. 2015, "Deep Unordered Composition Rivals
    Syntactic Methods for Text Classification".
    """

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, embedding: nn.Module, inputs: tuple[Tensor], vectors: Tensor) -> Tensor:
        """vectors [B, T, C] -> the same shape. Draws from PyTorch's default generator of their device."""
        if not embedding.training:
            return vectors
        kept = torch.rand(vectors.shape[:-1], device=vectors.device) >= self.p
        return vectors * kept.unsqueeze(-1)


@dataclass
class Model:
    """A classifier and its backbone, on their way through a run."""

    classifier: nn.Module
    gpt: nn.Module
    code: str
    "Identifies what computes a text's vector: the definition, seen by what it makes of a fixed input, or the engine."
    features_will_do: bool
    "The backbone is frozen, and the classifier reads nothing of it but each text's last vector."

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """What is trained, as AdamW takes it; of a whole model the head in its own group if it has its own rate."""
        own = {id(parameter) for parameter in self.gpt.parameters()}
        trained = [parameter for parameter in self.classifier.parameters() if parameter.requires_grad]
        backbone = [parameter for parameter in trained if id(parameter) in own]
        head = [parameter for parameter in trained if id(parameter) not in own]
        if recipe.head_lr is None or not backbone:
            return [{"params": backbone + head}]
        return [{"params": backbone}, {"params": head, "lr": recipe.head_lr}]

    def use_features(self) -> None:
        """From now on the classifier takes stored features [B, C] in place of token ids; the backbone leaves it."""
        for module in list(self.classifier.modules()):
            for name, child in list(module.named_children()):
                if child is self.gpt:
                    setattr(module, name, StoredFeatures())


def make_backbone(settings: Settings, recipe: Recipe, folder: Path) -> tuple[nn.Module, GPT2Config]:
    """The backbone in a folder, with the dropout that the recipe asks for; random weights with --random-backbone."""
    p = recipe.backbone_dropout
    dropout = {} if p is None else {"hidden_dropout_prob": p, "attention_probs_dropout_prob": p}
    config = replace(pretrained.read_config(folder), **dropout)
    gpt = GPT2Model(config) if settings.random_backbone else pretrained.load(GPT2Model, folder, config)
    if recipe.word_dropout:
        gpt.word_embedding.register_forward_hook(WordDropout(recipe.word_dropout))
    return gpt, config


def make_model(kind: type[nn.Module], settings: Settings, task: Task, recipe: Recipe, folder: Path,
               engine: Engine) -> Model:
    """Build the student's classifier around a backbone, and let the engine serve it where nothing changes by that."""
    gpt, config = make_backbone(settings, recipe, folder)
    with pretrained.backbone_given(GPT2Model, gpt):
        classifier = kind(SimpleNamespace(num_labels=task.num_labels, hidden_size=config.hidden_size,
                                          hidden_dropout_prob=recipe.dropout, fine_tune_mode=settings.fine_tune_mode))
    if not any(module is gpt for module in classifier.modules()):
        raise UserError("classifier.py: GPT2SentimentClassifier must keep the model that GPT2Model.from_pretrained "
                        "returns as a part of itself (self.gpt = ...)")
    if recipe.freeze_word_embedding:
        gpt.word_embedding.requires_grad_(False)  # now: a classifier sets this for all of GPT-2
    frozen = not any(parameter.requires_grad for parameter in gpt.parameters())
    if frozen:
        gpt.eval()
        gpt.train = lambda mode=True: gpt  # a frozen backbone stays in eval mode

    # What the definition gives for a few texts decides who may stand in for it.
    ids, mask = agree.texts(config.vocab_size, T=min(9, config.max_position_embeddings))
    vectors = answer(LastToken(gpt), ids, mask, gpt=gpt, forward=gpt.forward)
    logits = answer(classifier, ids, mask, gpt=gpt, forward=gpt.forward)
    features_will_do = frozen and same(logits, lambda: answer(
        classifier, vectors, torch.ones_like(mask[:, :1]), gpt=gpt, forward=StoredFeatures().forward))
    if not any(parameter.requires_grad for parameter in classifier.parameters()):
        raise UserError("classifier.py: GPT2SentimentClassifier leaves nothing to train: every parameter is frozen")
    if frozen and settings.fine_tune_mode == "full-model":
        print("classifier.py keeps GPT-2's weights frozen, in full-model mode too: only the head is trained")
    if frozen and not features_will_do:
        print("classifier.py reads more of GPT-2 than each text's last_token: GPT-2 runs again in every epoch, slower")
    if not frozen and settings.fine_tune_mode == "last-linear-layer":
        print("classifier.py leaves GPT-2's weights to be trained, in last-linear-layer mode too: so they are")

    served = bool(engine.gpt2) and not engine.sharded \
        and serve(classifier, gpt, config, engine, settings, logits, ids, mask)
    if settings.gradient_checkpointing and not served:
        for layer in gpt.gpt_layers:
            recompute_in_backward(layer)
    return Model(classifier, gpt, f"{hash_tensors({'vectors': vectors})} {'engine' * served}", features_will_do)


def serve(classifier: nn.Module, gpt: nn.Module, config: GPT2Config, engine: Engine, settings: Settings,
          logits: Tensor, ids: Tensor, mask: Tensor) -> bool:
    """Let the engine answer in the backbone's place, if the classifier then gives the same logits; whether it does."""
    fast = FastGPT2(gpt, config.num_attention_heads, engine.gpt2.gelu)
    fast.recompute = settings.gradient_checkpointing
    for forward in (fast.last_token, fast.all_tokens):
        asked = Mock(side_effect=forward)  # never asked by a classifier that calls GPT-2's parts by itself
        if same(logits, lambda asked=asked: answer(classifier, ids, mask, gpt=gpt, forward=asked)) and asked.called:
            gpt.forward = forward
            return True
    print("engine: classifier.py gives other logits with it, or does not call GPT-2 as a whole: your code runs, slower")
    return False


@leaves_model_as_found
def answer(model: nn.Module, *inputs: Tensor, gpt: nn.Module, forward: Callable[..., dict[str, Tensor]]) -> Tensor:
    """What a model gives in eval mode while its backbone has another forward. Leaves PyTorch's generators alone."""
    with patch.object(gpt, "forward", forward), torch.random.fork_rng([]):
        return model(*inputs)


def same(want: Tensor, function: Callable[[], Tensor]) -> bool:
    """Whether a function gives what is wanted, up to rounding; one that raises does not."""
    try:
        return agree.distance(function(), want) <= REAL_TOLERANCE
    except Exception:  # such as a KeyError from a classifier that reads more of GPT-2 than it is given
        return False
