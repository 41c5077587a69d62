"""Pretrain a GPT-2 of any size on your own text: how models/gpt2-tiny was made.

    ./setup.sh pretrain.py --text reviews-*.txt.gz --out runs/pretrain --hidden_size 256 --tokens 40_000_000
    ./setup.sh pretrain.py ... --resume                    go on after an interruption, bit for bit

Text files are plain or gzip, UTF-8, one document a line. Trains a tokenizer, packs the documents into blocks, trains on
predicting the next token, and writes OUT/model in Hugging Face layout, which classifier.py --model OUT/model and
transformers load.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from common import cli
from common.errors import UserError


@dataclass(frozen=True)
class Settings:
    """What pretrain.py is asked to do. Validated on construction."""

    text: tuple[Path, ...]
    """Text files: plain or gzip, one document a line."""
    out: Path = Path("runs/pretrain")
    """Run folder; the model goes to OUT/model."""
    start: Path | None = None
    """Folder with a model to go on from, in place of random weights; its shape is used, and its tokenizer unless
    another is asked for: then the vector of a new token begins as the mean of its parts' old ones."""
    tokenizer: Path | None = None
    """Folder with a tokenizer to use; without it one is trained on the text."""
    vocab_size: int | None = None
    """Tokens of the tokenizer that is trained: 8,192 where nothing is said. With --start, saying it is what makes one
    be trained."""
    tokenizer_every: int = 8
    """Train the tokenizer on every N-th document."""
    hidden_size: int = 256
    """Width of the model."""
    num_hidden_layers: int = 4
    """Blocks of the model."""
    num_attention_heads: int = 4
    """Heads of each block."""
    max_position_embeddings: int = 512
    """Longest sequence, and the length of a long block."""
    long_share: float = 0.25
    """Share of the text trained on in long blocks; the rest is in blocks a quarter as long, which is faster."""
    tokens: float = 40e6
    """Tokens to train on, over as many passes as it takes."""
    batch_tokens: int = 2048
    """Tokens a step."""
    accumulate: int = 1
    """Run each batch in N parts, one after another: the same step in less memory."""
    lr: float = 2e-3
    """Highest learning rate."""
    final_lr: float = 0.05
    """Share of it that is left at the end of the cosine."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises."""
    bag_weight: float = 0.0
    """Weight of a second objective: at some tokens, also predict words from anywhere near in the same document. It
    makes a token's vector tell what its text is about, which a frozen backbone needs."""
    rating_weight: float = 0.0
    """Weight of a third objective: ratings that documents state ("8/10") are taken out of the text, and guessed after
    every token of it."""
    weight_decay: float = 0.1
    """On matrices only; biases, gains and nothing else are spared."""
    beta2: float = 0.95
    """AdamW's decay of the second moment."""
    max_grad_norm: float = 1.0
    """Scale gradients down to this norm where they are larger."""
    dropout: float = 0.0
    """While pretraining; the saved model carries GPT-2's usual 0.1 for fine-tuning."""
    eval_every: int = 1000
    """Steps between held-out perplexities, samples and saved models."""
    sample: str = "this movie is"
    """Beginning of the text that is generated at each evaluation."""
    seed: int = 11711
    """Of the weights, the order and the samples."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products; bfloat16 is much faster on CPUs with AMX (Intel since 2023) and on GPUs."""
    resume: bool = False
    """Go on with an interrupted run of the same settings."""
    save_minutes: float = 10.0
    """Save a checkpoint this often, besides at every evaluation."""

    def __post_init__(self) -> None:
        cli.require_ranges(
            self, ("vocab_size", 257, 2**16), ("tokenizer_every", 1, None), ("hidden_size", 1, 10**6),
            ("num_hidden_layers", 1, 1000), ("num_attention_heads", 1, None), ("max_position_embeddings", 4, 10**6),
            ("long_share", 0, 1), ("tokens", 1, None), ("batch_tokens", 1, None), ("accumulate", 1, None),
            ("lr", 0, None), ("final_lr", 0, 1), ("warmup", 0, 1), ("bag_weight", 0, None), ("rating_weight", 0, None),
            ("weight_decay", 0, None), ("beta2", 0, 0.999999), ("max_grad_norm", 0, None), ("dropout", 0, 1),
            ("eval_every", 1, None), ("seed", 0, 2**32 - 1), ("save_minutes", 0, None))
        if self.max_position_embeddings % 4:
            raise UserError(f"--max-position-embeddings must be a multiple of 4, not {self.max_position_embeddings}")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(f"--hidden-size {self.hidden_size} must be a multiple of "
                            f"--num-attention-heads {self.num_attention_heads}")
        missing = [path for path in self.text if not path.is_file()]
        if missing:
            raise UserError(f"--text: there is no file {missing[0]}")
        missing = [path for path in (self.start, self.tokenizer) if path and not path.is_dir()]
        if missing:
            raise UserError(f"--start and --tokenizer take folders: there is no folder {missing[0]}")

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return max(int(self.tokens) // self.batch_tokens, 1)


def parse_settings() -> Settings:
    """The command line as Settings."""
    parser = cli.Parser(description=__doc__)
    cli.add_arguments(parser, Settings)
    return cli.from_arguments(Settings, parser.parse_args())


if __name__ == "__main__":
    SETTINGS = cli.attempt(parse_settings)  # before PyTorch is imported, so that --help answers at once
    cli.hush_interrupts()

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import nn

from common.files import make_folder, sha256_file
from data.corpus import UNRATED, Blocks, Corpus, encode, ratings_file, train_tokenizer
from data.tokenizer import Tokenizer
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from models.language_model import LanguageModel, generate
from models.pretrained import save_pretrained
from optimizer import AdamW
from training.allocator import keep_freed_memory
from training.device import Machine
from training.evaluate import leaves_model_as_found
from training.features import hash_tensors
from training.loop import Feed, Outcome, TrainState, fit
from training.memory import enough_memory, halved
from training.run_folder import RunFolder
from training.schedule import make_scheduler
from training.seeding import seed_everything
from training.session import Session
from training.startup import leave_compiler_out
from training.stopping import StopSignals


def pretraining(bag_weight: float, rating_weight: float) -> Callable[[LanguageModel, Blocks], Outcome]:
    """The objective: the next token, plus the weighted ones for the document's words and for its rating."""

    def objective(model: LanguageModel, batch: Blocks) -> Outcome:
        hidden = model.hidden(batch.input_ids)
        loss = model.next_token(hidden, batch.targets)
        if bag_weight:
            loss = loss + bag_weight * model.bag_of_words(hidden, batch.input_ids)
        if rating_weight:
            loss = loss + rating_weight * model.rating(hidden, batch.ratings)
        return Outcome(loss, torch.zeros((), dtype=torch.int64, device=loss.device))

    return objective


@leaves_model_as_found
def held_out_loss(model: LanguageModel, corpus: Corpus, batch_tokens: int, machine: Machine) -> float:
    """Mean cross-entropy over a held-out corpus, in nats a token."""
    total = 0.0
    for rows in corpus.evaluation_order(4 * batch_tokens):
        with machine.autocast(), enough_memory("in evaluation", halved("--batch_tokens", batch_tokens)):
            batch = corpus.collate(rows).to(machine.device)
            total += float(model.next_token(model.hidden(batch.input_ids), batch.targets)) * len(rows)
    return total / corpus.chunks


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay on matrices; none on biases and LayerNorm gains, for which 0 is no natural value."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def leg_order(settings: Settings, corpus: Corpus, leg: int) -> list[list[int]]:
    """The batches of a leg: the loop's epochs are legs of eval_every steps, cut from endless passes over the text."""
    def one_pass(number: int) -> list[list[int]]:
        return pass_order(corpus, settings.batch_tokens, settings.long_share, settings.seed, number)

    per_pass = len(one_pass(0))
    first, last = leg * settings.eval_every, min((leg + 1) * settings.eval_every, settings.steps)
    return [one_pass(step // per_pass)[step % per_pass] for step in range(first, last)]


@lru_cache(maxsize=2)
def pass_order(corpus: Corpus, batch_tokens: int, long_share: float, seed: int, number: int) -> list[list[int]]:
    """One pass over the text; remembered, for it takes seconds on a large corpus."""
    return corpus.order(batch_tokens, long_share, seed, number)


DECIDES_NOTHING = {"text", "out", "start", "tokenizer", "device", "precision", "sample", "resume", "save_minutes"}
"""Settings that a run may be resumed without: what they say is fingerprinted by its content, or changes no weight."""

VOCAB_SIZE = 8192
"""Tokens of a tokenizer whose size is not given."""


def find_tokenizer(settings: Settings) -> Path:
    """The folder of the tokenizer: given, or trained on the first run and found again on the next."""
    if settings.tokenizer:
        return settings.tokenizer
    if settings.start and not settings.vocab_size:
        return settings.start
    folder = settings.out / "tokenizer"
    if not (settings.resume and (folder / "tokenizer.json").exists()):
        make_folder(folder)
        size = settings.vocab_size or VOCAB_SIZE
        train_tokenizer(settings.text, size, settings.tokenizer_every, folder / "tokenizer.json")
    return folder


def make_backbone(settings: Settings, tokenizer: Tokenizer) -> GPT2Model:
    """The model to start from: of the shape asked for with random weights, or read from a folder."""
    dropout = {"hidden_dropout_prob": settings.dropout, "attention_probs_dropout_prob": settings.dropout}
    if settings.start:
        gpt = GPT2Model.from_pretrained(str(settings.start), **dropout)
        theirs = Tokenizer.load(settings.start)
        if gpt.config.max_position_embeddings % 4 or gpt.config.vocab_size < len(theirs):
            raise UserError(f"--start {settings.start}: its {gpt.config.max_position_embeddings} positions must be a "
                            f"multiple of 4, and its {gpt.config.vocab_size} tokens no fewer than its tokenizer's")
        if tokenizer.fingerprint != theirs.fingerprint:
            change_tokens(gpt, tokenizer.in_tokens_of(theirs))
    else:
        shape = {name: getattr(settings, name) for name in
                 ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")}
        gpt = GPT2Model(GPT2Config(vocab_size=len(tokenizer), **shape, **dropout))
    usual = GPT2Config()  # what is saved with the model is for fine-tuning, which wants dropout
    gpt.config = replace(gpt.config, hidden_dropout_prob=usual.hidden_dropout_prob,
                         attention_probs_dropout_prob=usual.attention_probs_dropout_prob)
    return gpt


def change_tokens(gpt: GPT2Model, parts: Sequence[Sequence[int]]) -> None:
    """Give the model a new vocabulary: the vector of a token is the mean of the old vectors of its `parts`."""
    old = gpt.word_embedding.weight.detach()
    new = torch.stack([old[ids].mean(dim=0) for ids in parts])
    gpt.word_embedding = nn.Embedding.from_pretrained(new, freeze=False)
    gpt.config = replace(gpt.config, vocab_size=len(parts))


def identity(settings: Settings, gpt: GPT2Model, files: tuple[Path, Path], tokenizer: Tokenizer,
             machine: Machine) -> dict:
    """What must be the same for a run to be the same run: contents, not where they lie, so that a run may be moved."""
    decides = {name: value for name, value in asdict(settings).items() if name not in DECIDES_NOTHING}
    return {"settings": decides, "precision": machine.precision, "model": asdict(gpt.config),
            "weights": hash_tensors(gpt.state_dict()), "tokenizer": tokenizer.fingerprint,
            "ids": [sha256_file(file) for file in files],
            "ratings": [sha256_file(ratings_file(file)) for file in files if settings.rating_weight]}


def main() -> None:
    """Pretrain in the run folder, which is ours alone from here on."""
    keep_freed_memory()
    leave_compiler_out()
    with RunFolder(SETTINGS.out) as run, enough_memory("for the model", halved("--hidden_size", SETTINGS.hidden_size)):
        pretrain(SETTINGS, run)


def pretrain(settings: Settings, run: RunFolder) -> None:
    """Tokenizer, corpus, model, training; a saved model after every leg."""
    machine = Machine.choose(settings.device, settings.precision)
    tokenizer_folder = find_tokenizer(settings)
    tokenizer = Tokenizer.load(tokenizer_folder)
    seed_everything(settings.seed)
    gpt = make_backbone(settings, tokenizer)  # before the text is encoded, so that a bad --start is told at once
    make_folder(settings.out / "ids")
    files = encode(settings.text, tokenizer, settings.out / "ids", ratings=settings.rating_weight > 0)
    corpus, held_out = (Corpus(file, gpt.config.max_position_embeddings) for file in files)
    if settings.rating_weight and corpus.ratings.min() == UNRATED:
        raise UserError("--rating-weight: no document of the text states a rating such as 8/10")
    run_identity = identity(settings, gpt, files, tokenizer, machine)
    model = LanguageModel(gpt, corpus.counts(len(tokenizer)), tokenizer.pad_id).to(machine.device)
    optimizer = AdamW(parameter_groups(model, settings.weight_decay), lr=settings.lr, betas=(0.9, settings.beta2))
    scheduler = make_scheduler(optimizer, "cosine", settings.warmup, settings.steps, settings.final_lr)
    state = TrainState()
    print(f"{sum(p.numel() for p in model.gpt.parameters()):,} parameters, {len(corpus.ids):,} tokens of text, "
          f"{settings.steps:,} steps of {settings.batch_tokens:,} tokens on {machine.device}, {machine.precision}")
    going_on = run.begin({"settings": asdict(settings), "tokens of text": len(corpus.ids)}, settings.resume)
    session = Session(run, model, optimizer, scheduler, state, identity=run_identity, stop=StopSignals(),
                      save_minutes=settings.save_minutes)
    if going_on:
        session.resume()
    prompt = tokenizer.encode([settings.sample], 64, lowercase=False).ids[0]
    sample = leaves_model_as_found(generate)

    def after_leg() -> None:
        loss = held_out_loss(model, held_out, settings.batch_tokens, machine)
        metrics = {"step": state.step, "tokens": state.step * settings.batch_tokens, "train_loss": state.loss,
                   "held_out_loss": loss, "held_out_perplexity": math.exp(loss)}
        print(f"step {state.step:,}: training loss {state.loss:.3f}, held-out loss {loss:.3f} "
              f"(perplexity {math.exp(loss):.1f})", flush=True)
        ids = sample(model, prompt, length=40, seed=settings.seed + state.step)
        print("   ", tokenizer.decode(ids), flush=True)
        save_pretrained(model.gpt, settings.out / "model", dtype=torch.float16,
                        tokenizer_file=tokenizer_folder / "tokenizer.json")
        session.end_epoch(metrics)

    feed = Feed(lambda leg: leg_order(settings, corpus, leg), corpus.collate,
                lighter=[halved("--batch_tokens", settings.batch_tokens)])
    objective = pretraining(settings.bag_weight, settings.rating_weight)
    with session.training():
        fit(model, optimizer, feed, objective, state, scheduler=scheduler,
            epochs=math.ceil(settings.steps / settings.eval_every), accumulate=settings.accumulate,
            max_grad_norm=settings.max_grad_norm, after_step=session.after_step, after_epoch=after_leg,
            describe="leg", **machine.keywords)


if __name__ == "__main__":
    cli.run(main)
