"""Every setting of pretrain.py, with its help text."""

from common import interrupts  # noqa: F401, I001 (first: from here on Ctrl-C ends a script quietly)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common import cli
from common.errors import UserError
from common.student_files import explain_import_errors


def read_settings(description: str) -> "Settings":
    """Read the command line. A mistake in it ends the process with exit status 2. Imports no PyTorch."""
    def parse() -> Settings:
        parser = cli.Parser(description=description)
        cli.add_arguments(parser, Settings)
        settings = cli.from_arguments(Settings, parser.parse_args())
        cli.require_address_space()
        return settings

    settings = cli.attempt(parse)
    explain_import_errors()
    return settings


@dataclass(frozen=True)
class Settings:
    """What pretrain.py is asked to do. Validated on construction."""

    text: tuple[Path, ...]
    """Text files: plain or gzip, one document a line."""
    out: Path = Path("runs/pretrain")
    """Run folder; the model goes to OUT/model."""
    start: Path | None = None
    """Folder with a model to start from, in place of random weights; its shape is used, and its tokenizer unless
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
    """Clip the norm of the gradient to this value."""
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
    """Number format of the matrix products; bfloat16 is much faster on GPUs, and on CPUs that multiply in it: those
    with AMX or AVX-512 BF16."""
    engine: Literal["auto", "off"] = "auto"
    """auto: run a faster version of your files where it gives the same results; off: always run the files."""
    resume: bool = False
    """Resume an interrupted run of the same settings."""
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
        if missing := [path for path in self.text if not path.is_file()]:
            raise UserError(f"--text: there is no file {missing[0]}")
        if missing := [path for path in (self.start, self.tokenizer) if path and not path.is_dir()]:
            raise UserError(f"--start and --tokenizer take folders: there is no folder {missing[0]}")
        inside = [path for path in (self.start, self.tokenizer) if path and path.resolve().is_relative_to(
            self.out.resolve())]
        if inside and not self.resume:
            raise UserError(f"{inside[0]} is part of the run in {self.out}, which moves away when a new one begins\n"
                            "Choose another folder with --out")

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return max(int(self.tokens) // self.batch_tokens, 1)
