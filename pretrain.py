"""Pretrain a GPT-2 of any size on your own text: how models/gpt2-tiny was made.

    ./setup.sh pretrain.py --text reviews-*.txt.gz --out runs/pretrain --hidden_size 256 --tokens 40_000_000
    ./setup.sh pretrain.py ... --resume                    go on after an interruption, bit for bit

Text files are plain or gzip, UTF-8, one document a line. Trains a tokenizer, packs the documents into blocks, trains on
predicting the next token, and writes OUT/model in Hugging Face layout, which classifier.py --model OUT/model and
transformers load.
"""

from dataclasses import asdict, replace
from pathlib import Path

from common import cli
from common.errors import UserError
from training.pretrain_settings import Settings


def parse_settings() -> Settings:
    """The command line as Settings."""
    parser = cli.Parser(description=__doc__)
    cli.add_arguments(parser, Settings)
    return cli.from_arguments(Settings, parser.parse_args())


if __name__ == "__main__":
    SETTINGS = cli.attempt(parse_settings)  # before PyTorch is imported, so that --help answers at once
    cli.hush_interrupts()

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import nn

from common.files import make_folder, sha256_file
from data.corpus import UNRATED, Blocks, Corpus, encode, ratings_file, train_tokenizer
from data.tokenizer import Tokenizer
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from models.language_model import LanguageModel, change_tokens, generate
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
