"""How pretrain.py's rooms are put together: tokenizer, corpus, model, training; a saved model after every leg."""

import contextlib
import math
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from common import cli
from common.errors import Stopped, UserError, one_line
from common.files import make_folder, sha256_file
from common.student_files import explain_student_errors
from common.terminal import say
from data.tokenizer import Tokenizer
from engine import agree
from engine.adamw import FastAdamW
from engine.gpt2 import FastGPT2
from models import pretrained
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from models.heads import heads
from models.hub import fine_tune_like, some
from optimizer import AdamW
from pretraining.corpus import UNRATED, Corpus, TooFewTokens, TooLittleText, encode, ratings_file, train_tokenizer
from pretraining.objectives import LanguageModel, change_tokens, generate, perplexity, pretraining
from pretraining.settings import Settings
from training.evaluate import leaves_model_as_found
from training.loop import Diverged, Feed, TrainState, fit
from training.machine import Machine, leave_compiler_out
from training.memory import OutOfMemory, explain_out_of_memory, keep_freed_memory
from training.parallel.process_group import DeviceError
from training.runs.run_folder import RunFolder, RunFolderError
from training.runs.session import OtherRun, Session
from training.runs.stop_signals import StopSignals
from training.runs.tensor_file import hash_tensors
from training.schedule import make_scheduler

DECIDES_NOTHING = {"text", "out", "start", "tokenizer", "device", "precision", "sample", "resume", "save_minutes",
                   "engine"}
"""Settings without a say in what a run is: their content is fingerprinted, or they change no weight."""


def main(settings: Settings) -> NoReturn:
    """Do what pretrain.py is asked to do; ends the process with its exit status."""
    cli.run(lambda: run(settings))


def run(settings: Settings) -> None:
    """Pretrain in the run folder."""
    keep_freed_memory()
    leave_compiler_out()
    with advice(settings), explain_student_errors(), RunFolder(settings.out, ("tokenizer", "model")) as folder, \
            explain_out_of_memory("loading", "for the model"):
        pretrain(settings, folder)


def pretrain(settings: Settings, run: RunFolder) -> None:
    """Train a tokenizer, encode the text, train the model; save it after every leg."""
    machine = Machine.choose(settings.device, settings.precision)
    resume = settings.resume and run.has_checkpoint()
    if settings.resume and not resume:
        say(f"{run.path} holds no checkpoint to resume from: starting anew", error=True)
    tokenizer = Tokenizer.load(find_tokenizer(settings, run, new=not resume))

    # The model comes before the text is encoded, so that a bad --start is told at once.
    fast, optimizer_kind = choose_engine(settings, machine)
    torch.manual_seed(settings.seed)
    gpt, config = make_backbone(settings, tokenizer)

    # Text.
    make_folder(settings.out / "ids")
    files = encode(settings.text, tokenizer, settings.out / "ids", ratings=settings.rating_weight > 0,
                   T=config.max_position_embeddings)
    corpus, held_out = (Corpus(file, config.max_position_embeddings) for file in files)
    if settings.rating_weight and corpus.ratings.min() == UNRATED:
        raise UserError("--rating-weight: no document of the text states a rating such as 8/10")

    # What must be the same for a run to be the same run: contents, not where they lie, so that a run may be moved.
    decides = {name: value for name, value in asdict(settings).items() if name not in DECIDES_NOTHING}
    identity = {"settings": decides, "precision": machine.precision, "model": asdict(config),
                "engine": {"gpt2": fast is not None, "adamw": optimizer_kind is FastAdamW},
                "weights": hash_tensors(gpt.state_dict()), "tokenizer": tokenizer.fingerprint,
                "ids": [sha256_file(file) for file in files],
                "ratings": [sha256_file(ratings_file(file)) for file in files if settings.rating_weight]}

    # Training.
    fast = fast and FastGPT2(gpt, config.num_attention_heads, fast.gelu)
    model = LanguageModel(gpt, corpus.counts(len(tokenizer)), tokenizer.pad_id, fast).to(machine.device)
    optimizer = optimizer_kind(parameter_groups(model, settings.weight_decay), lr=settings.lr,
                               betas=(0.9, settings.beta2))
    scheduler = make_scheduler(optimizer, "cosine", settings.warmup, settings.steps, settings.final_lr)
    state = TrainState()
    say(f"{sum(p.numel() for p in model.gpt.parameters()):,} parameters, {len(corpus.ids):,} tokens of text, "
        f"{settings.steps:,} steps of {settings.batch_tokens:,} tokens on {machine.device}, {machine.precision}")
    if not resume:
        run.begin({"settings": asdict(settings), "tokens of text": len(corpus.ids)})
    end = TrainState(math.ceil(settings.steps / settings.eval_every), settings.eval_every, settings.steps)
    session = Session(run, model, optimizer, scheduler, state, identity=identity, end=end, stop=StopSignals(),
                      save_minutes=settings.save_minutes)
    if resume:
        session.resume()
    prompt = tokenizer.encode([settings.sample], 64, lowercase=False).ids[0]
    sample = leaves_model_as_found(generate)
    usual = GPT2Config()  # fine-tuning wants GPT-2's usual dropout, whatever pretraining had
    like = fine_tune_like(settings.start) if settings.start else None
    to_save = replace(config, hidden_dropout_prob=usual.hidden_dropout_prob,
                      attention_probs_dropout_prob=usual.attention_probs_dropout_prob)

    def save_model() -> None:
        file = find_tokenizer(settings, run, new=False) / "tokenizer.json"
        pretrained.save_pretrained(model.gpt, settings.out / "model", config=to_save, dtype=torch.float16,
                                   tokenizer_file=file, like=like)

    def after_leg() -> None:
        loss = held_out_loss(model, held_out, settings.batch_tokens, machine)
        metrics = {"step": state.step, "tokens": state.step * settings.batch_tokens, "train_loss": state.loss,
                   "held_out_loss": loss, "held_out_perplexity": perplexity(loss)}
        say(f"step {state.step:,}: training loss {state.loss:.3f}, held-out loss {loss:.3f} "
            f"(perplexity {perplexity(loss):.1f})")
        ids = sample(model, prompt, length=40, seed=settings.seed + state.step)
        say(f"    {one_line(tokenizer.decode(ids))}")
        save_model()
        session.end_epoch(metrics)

    feed = Feed(lambda leg: leg_order(settings, corpus, leg), corpus.collate)
    objective = pretraining(settings.bag_weight, settings.rating_weight)
    with session.training():
        fit(model, optimizer, feed, objective, state, machine, scheduler=scheduler,
            epochs=math.ceil(settings.steps / settings.eval_every), accumulate=settings.accumulate,
            max_grad_norm=settings.max_grad_norm, after_step=session.after_step, after_epoch=after_leg,
            describe="leg")
    if (run.path / "result.json").exists():  # finished before, so no leg has saved the model
        save_model()
    run.finish({"step": state.step, "train_loss": state.loss})


def choose_engine(settings: Settings, machine: Machine) -> tuple[agree.Agreement | None, type[torch.optim.Optimizer]]:
    """Compare the engine with the definition, and print how that went; (agreement of GPT-2 or None, AdamW to use)."""
    if settings.engine == "off":
        say("engine: off, your code runs")
        return None, AdamW
    small = GPT2Model(GPT2Config(vocab_size=50, max_position_embeddings=16, hidden_size=24, num_hidden_layers=3,
                                 num_attention_heads=3)).to(machine.device)
    gpt2, adamw = agree.check(small, 3, 50, AdamW, logits=True)
    return gpt2 or None, FastAdamW if adamw else AdamW


def find_tokenizer(settings: Settings, run: RunFolder, new: bool) -> Path:
    """The folder of the tokenizer: given, or trained; that of a new run waits outside until the run has begun."""
    if settings.tokenizer:
        return settings.tokenizer
    if settings.start and not settings.vocab_size:
        return settings.start
    folder = (run.beginning if new else run.path) / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        make_folder(folder)
        train_tokenizer(settings.text, settings.vocab_size or 8192, settings.tokenizer_every, folder / "tokenizer.json")
    return folder


def make_backbone(settings: Settings, tokenizer: Tokenizer) -> tuple[nn.Module, GPT2Config]:
    """The model to start from: of the shape asked for with random weights, or read from a folder."""
    dropout = {"hidden_dropout_prob": settings.dropout, "attention_probs_dropout_prob": settings.dropout}
    if not settings.start:
        config = GPT2Config(len(tokenizer), settings.max_position_embeddings, settings.hidden_size,
                            settings.num_hidden_layers, settings.num_attention_heads, **dropout)
        return GPT2Model(config), config

    config = replace(pretrained.read_config(settings.start), **dropout)
    if left := heads(settings.start):
        say(f"{settings.start}: the backbone is taken, its head ({some(left)}) is left")
    gpt, theirs = pretrained.load(GPT2Model, settings.start, config), Tokenizer.load(settings.start)
    if config.max_position_embeddings % 4 or config.vocab_size < len(theirs):
        raise UserError(f"--start {settings.start}: its {config.max_position_embeddings} positions must be a "
                        f"multiple of 4, and its {config.vocab_size} tokens no fewer than its tokenizer's")
    if tokenizer.fingerprint != theirs.fingerprint:
        change_tokens(gpt, tokenizer.in_tokens_of(theirs))
        config = replace(config, vocab_size=len(tokenizer))
    return gpt, config


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay on matrices; none on biases and LayerNorm gains, for which 0 is no natural value."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


@leaves_model_as_found
def held_out_loss(model: LanguageModel, corpus: Corpus, batch_tokens: int, machine: Machine) -> float:
    """Mean cross-entropy over a held-out corpus, in nats a token."""
    total = 0.0
    for rows in corpus.evaluation_order(4 * batch_tokens):
        with machine.autocast(), explain_out_of_memory("evaluating", "in evaluation"):
            batch = corpus.collate(rows).to(machine.device)
            total += float(model.next_token(model.hidden(batch.input_ids), batch.targets)) * len(rows)
    return total / corpus.chunks


def leg_order(settings: Settings, corpus: Corpus, leg: int) -> list[list[int]]:
    """The batches of a leg: the loop's epochs are legs of eval_every steps, cut from endless passes over the text."""
    per_pass = len(pass_order(settings, corpus, 0))
    first, last = leg * settings.eval_every, min((leg + 1) * settings.eval_every, settings.steps)
    return [pass_order(settings, corpus, step // per_pass)[step % per_pass] for step in range(first, last)]


@lru_cache(maxsize=2)
def pass_order(settings: Settings, corpus: Corpus, number: int) -> list[list[int]]:
    """One pass over the text; remembered, for it takes seconds on a large corpus."""
    return corpus.order(settings.batch_tokens, settings.long_share, settings.seed, number)


def advice(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Rooms say what is wrong; this adds the flag that mends it."""
    def less_memory(error: OutOfMemory) -> str:
        if error.doing == "loading":
            return f"Turn down: --hidden_size {settings.hidden_size // 2} (now {settings.hidden_size})"
        smaller = f"--batch_tokens {settings.batch_tokens // 2} (now {settings.batch_tokens})"
        if error.doing != "training":
            return f"Turn down: {smaller}"
        parts = f"--accumulate {2 * settings.accumulate} (now {settings.accumulate}): the same step in smaller parts"
        return f"Turn down: {parts}; or {smaller}"

    return cli.adding_advice({
        DeviceError: lambda error: "Use --device auto or --device cpu",
        Diverged: lambda error: "Usual causes: a learning rate that is too high (lower --lr), or damaged weights",
        OtherRun: lambda error: "Give the settings it was started with, or leave out --resume to begin a new run",
        OutOfMemory: less_memory,
        RunFolderError: lambda error: "Choose another folder with --out",
        Stopped: lambda error: f"resume with the same command and --resume: {cli.same_command('--resume')}",
        TooLittleText: lambda error: "Give more text" if settings.start else
                                     "Give more text, or a smaller --max_position_embeddings",
        TooFewTokens: lambda error: "Give more text or a smaller --vocab_size",
    })
