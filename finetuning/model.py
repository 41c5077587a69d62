"""The model of a run: the student's classifier, with a checkpoint's weights, served by the engine where it agrees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, patch

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.terminal import say
from data.tasks import Task
from finetuning.features import LastToken, StoredFeatures
from finetuning.recipes import Recipe
from finetuning.settings import Settings
from models import pretrained
from models.config import GPT2Config
from models.fine_tuned import named_weights
from models.gpt2 import GPT2Model
from models.heads import read_score
from models.hub import some
from optimizer import AdamW
from training.evaluate import leaves_model_as_found
from training.machine import Machine
from training.memory import recompute_in_backward
from training.runs.tensor_file import hash_tensors

if TYPE_CHECKING:
    from engine.agree import Agreement

SMALL = GPT2Config(vocab_size=50, max_position_embeddings=16, hidden_size=24, num_hidden_layers=3,
                   num_attention_heads=3)
"""The shape of the models with which engine and definition are compared."""
REAL_TOLERANCE = 1e-3
"""Of logits, where engine and definition have the checkpoint's weights: more layers for rounding to grow in."""


@dataclass(frozen=True)
class Engine:
    """What of the engine agrees with the student's files, and so may serve; None where it was not asked.

    The engine is imported here alone, when it is asked for: without the folder engine/ every run works, slower.
    """

    gpt2: "Agreement | None" = None
    adamw: "Agreement | None" = None
    sharded: bool = False
    "The definition runs all the same: the engine knows nothing of weights in parts."
    alone_on_cpu: bool = False
    "One process, and no accelerator: here a sparse gradient of the words' vectors saves time."

    @classmethod
    def choose(cls, settings: Settings, machine: Machine) -> "Engine":
        """Compare the engine with the student's files, and print how that went."""
        if settings.engine == "off":
            say("engine: off, your code runs")
            return cls()
        if find_spec("engine") is None:
            say("engine: not in this copy, your code runs")
            return cls()
        from engine import agree

        small = GPT2Model(SMALL).to(machine.device)
        gpt2, adamw = agree.check(small, SMALL.num_attention_heads, SMALL.vocab_size, AdamW)
        if settings.shard:
            say("engine: not used with --shard, your code runs")
        return cls(gpt2, adamw, settings.shard, machine.device.type == "cpu" and machine.group.size == 1)

    @property
    def optimizer(self) -> Callable[..., torch.optim.Optimizer]:
        """The AdamW to train with."""
        if not self.adamw or self.sharded:
            return AdamW
        from engine.adamw import FastAdamW

        return FastAdamW

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

    @property
    def place(self) -> str:
        """The backbone's name in the classifier, such as "gpt", also where stored features have taken its place."""
        return next(name for name, module in self.classifier.named_modules()
                    if module is self.gpt or isinstance(module, StoredFeatures))

    def weights(self) -> dict[str, Tensor]:
        """Every weight by its name in the classifier, also those of a backbone that has left it."""
        backbone = {f"{self.place}.{name}": value for name, value in named_weights(self.gpt).items()}
        return {**backbone, **named_weights(self.classifier)}

    def answers(self, config: GPT2Config) -> Tensor:
        """The logits [3, num_labels] for the same few texts that every model of this shape is asked."""
        device = next(self.gpt.parameters()).device
        ids, mask = (tensor.to(device) for tensor in texts(config))
        asked = {"gpt": self.gpt, "forward": self.gpt.forward}
        if any(module is self.gpt for module in self.classifier.modules()):
            return answer(self.classifier, ids, mask, **asked).cpu()
        vectors = answer(LastToken(self.gpt), ids, mask, **asked)
        return answer(self.classifier, vectors, torch.ones_like(mask[:, :1]), **asked).cpu()


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
    if settings.keep_head:
        keep_head(classifier, gpt, folder, task.label_names)
    if recipe.freeze_word_embedding:
        gpt.word_embedding.requires_grad_(False)  # now: a classifier sets this for all of GPT-2
    frozen = not any(parameter.requires_grad for parameter in gpt.parameters())
    if frozen:
        gpt.eval()
        gpt.train = lambda mode=True: gpt  # a frozen backbone stays in eval mode

    # What the definition gives for a few texts decides who may stand in for it.
    ids, mask = texts(config)
    vectors = answer(LastToken(gpt), ids, mask, gpt=gpt, forward=gpt.forward)
    logits = answer(classifier, ids, mask, gpt=gpt, forward=gpt.forward)
    features_will_do = frozen and same(logits, lambda: answer(
        classifier, vectors, torch.ones_like(mask[:, :1]), gpt=gpt, forward=StoredFeatures().forward))
    if not any(parameter.requires_grad for parameter in classifier.parameters()):
        raise UserError("classifier.py: GPT2SentimentClassifier leaves nothing to train: every parameter is frozen")
    if frozen and settings.fine_tune_mode == "full-model":
        say("classifier.py keeps GPT-2's weights frozen, in full-model mode too: only the head is trained")
    if frozen and not features_will_do:
        say("classifier.py reads more of GPT-2 than each text's last_token: GPT-2 runs again in every epoch, slower")
    if not frozen and settings.fine_tune_mode == "last-linear-layer":
        say("classifier.py leaves GPT-2's weights to be trained, in last-linear-layer mode too: so they are")

    forward = None
    if engine.gpt2 and not engine.sharded:
        forward = faster_forward(classifier, gpt, config, engine.gpt2, logits, ids, mask,
                                 recompute=settings.gradient_checkpointing)
        if forward is None:
            say("engine: classifier.py gives other logits with it, or does not call GPT-2 as a whole: your code runs, "
                "slower")
    if forward is not None:
        gpt.forward = forward
        # Of 50,257 words a batch has some hundred: their rows alone have a gradient, and FastAdamW takes it so.
        gpt.word_embedding.sparse = engine.alone_on_cpu and engine.optimizer is not AdamW
    elif settings.gradient_checkpointing:
        for layer in gpt.gpt_layers:
            recompute_in_backward(layer)
    return Model(classifier, gpt, f"{hash_tensors({'vectors': vectors})} {'engine' * (forward is not None)}",
                 features_will_do)


def keep_head(classifier: nn.Module, gpt: nn.Module, folder: Path, label_names: Sequence[str]) -> None:
    """Copy the head of a GPT2ForSequenceClassification in `folder` into the classifier's linear layer.

    Its rows go by the labels' names where the folder has the same ones, by their numbers if not. UserError if the
    classifier's own part is not one linear layer of that shape.
    """
    weight, names = read_score(folder)
    own = {id(parameter) for parameter in gpt.parameters()}
    linear = [module for module in classifier.modules() if isinstance(module, nn.Linear)
              and id(module.weight) not in own]
    others = {id(parameter) for parameter in classifier.parameters()} - own
    if len(linear) != 1 or others != {id(parameter) for parameter in linear[0].parameters()}:
        raise UserError("classifier.py: a head can be kept only where the classifier is GPT-2 and one nn.Linear")
    if linear[0].weight.shape != weight.shape:
        raise UserError(f"{folder}: its head has {len(weight)} labels for vectors of {weight.shape[1]}; this task has "
                        f"{linear[0].out_features}, for vectors of {linear[0].in_features}")

    # LABEL_0 and so on is what Hugging Face writes where nobody named the labels.
    theirs, ours = ([name.lower() for name in some] for some in (names, label_names))
    if sorted(theirs) == sorted(ours):
        weight = weight[[theirs.index(name) for name in ours]]
    elif ours and theirs != [f"label_{label}" for label in range(len(theirs))]:
        say(f"the head's labels are {some(names)}; here they are {some(label_names)}, in this order")
    with torch.no_grad():
        linear[0].weight.copy_(weight)
        if linear[0].bias is not None:
            linear[0].bias.zero_()


def faster_forward(classifier: nn.Module, gpt: nn.Module, config: GPT2Config, agreement: "Agreement", logits: Tensor,
                   ids: Tensor, mask: Tensor, recompute: bool = False) -> Callable[..., dict[str, Tensor]] | None:
    """The engine's forward that may answer in the backbone's place; None if the classifier then gives other logits.

    logits: what the classifier gives for ids and mask. recompute: as FastGPT2.recompute.
    """
    from engine.gpt2 import FastGPT2

    fast = FastGPT2(gpt, config.num_attention_heads, agreement.gelu)
    fast.recompute = recompute
    for forward in (fast.last_token, fast.all_tokens):
        asked = Mock(side_effect=forward)  # never asked by a classifier that calls GPT-2's parts by itself
        if same(logits, lambda asked=asked: answer(classifier, ids, mask, gpt=gpt, forward=asked)) and asked.called:
            return forward
    return None


@leaves_model_as_found
def answer(model: nn.Module, *inputs: Tensor, gpt: nn.Module, forward: Callable[..., dict[str, Tensor]]) -> Tensor:
    """What a model gives in eval mode while its backbone has another forward. Leaves PyTorch's generators alone."""
    with patch.object(gpt, "forward", forward), torch.random.fork_rng([]):
        return model(*inputs)


def texts(config: GPT2Config) -> tuple[Tensor, Tensor]:
    """Random ids and mask [3, T]: a full row, a row with padding, a row of one token."""
    T = min(9, config.max_position_embeddings)
    ids = torch.randint(config.vocab_size, (3, T), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([[T], [(T + 1) // 2], [1]])
    return ids, (torch.arange(T) < lengths).long()


def same(want: Tensor, function: Callable[[], Tensor]) -> bool:
    """Whether a function gives what is wanted, up to rounding; one that raises does not."""
    try:
        got = function()
        return got.shape == want.shape and torch.allclose(got, want, rtol=REAL_TOLERANCE, atol=REAL_TOLERANCE)
    except Exception:  # such as a KeyError from a classifier that reads more of GPT-2 than it is given
        return False
