"""A training run in a fraction of a second, with all that makes resuming hard: dropout, accumulation, a schedule."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from data.batching import FeatureDataset, epoch_order
from optimizer import AdamW
from training.loop import Feed, TrainState, classification, fit
from training.machine import Machine
from training.runs.run_folder import RunFolder
from training.runs.session import Session
from training.schedule import make_scheduler

N, C, BATCH, EPOCHS = 22, 4, 8, 3  # the last batch is short
STEPS = EPOCHS * -(-N // BATCH)
OPTIMIZERS = {
    "ours": lambda parameters: AdamW(parameters, lr=0.05, weight_decay=0.1),
    "torch.AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.05),  # counts its steps in tensors
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "plain": lambda parameters: torch.optim.SGD(parameters, lr=0.05),  # remembers nothing
}


class Unmasked(nn.Sequential):
    """nn.Sequential, called like a classifier with (features [B, C], mask): it does not look at the mask."""

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(features)


class Toy:
    """A run that has not begun: model, optimizer, scheduler, state and data, all a function of the seed."""

    def __init__(self, optimizer: str = "ours", seed: int = 0, hidden: int = 6) -> None:
        random = torch.Generator().manual_seed(1)
        features = torch.randn(N, C, generator=random)
        self.data = FeatureDataset(features, (features.sum(dim=1) > 0).long())
        torch.manual_seed(seed)
        self.model = Unmasked(nn.Linear(C, hidden), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Dropout(0.3),
                              nn.Linear(hidden, 2))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.scheduler = make_scheduler(self.optimizer, "cosine", 0.2, STEPS)
        self.state = TrainState()
        self.identity = {"seed": seed, "recipe": {"lr": 0.05, "epochs": EPOCHS}, "data": "1f3a"}

    def session(self, run: RunFolder, **settings) -> Session:
        return Session(run, self.model, self.optimizer, self.scheduler, self.state,
                       **{"identity": self.identity, "save_steps": 2, **settings})

    def fit(self, session: Session, after_step: Callable[[int], None] = lambda step: None) -> None:
        """Train to the end; after_step is called with the step's number when the session has done its part."""
        def one_step() -> None:
            session.after_step()
            after_step(self.state.step)

        def end_epoch() -> None:
            metrics = {"epoch": self.state.epoch, "loss": self.state.loss, "accuracy": self.state.accuracy}
            session.end_epoch(metrics, score=self.state.accuracy)

        order = lambda epoch: epoch_order(self.data.lengths, BATCH, 5, epoch)  # noqa: E731
        with session.training():
            fit(self.model, self.optimizer, Feed(order, self.data.collate), classification, self.state, Machine(),
                epochs=EPOCHS, scheduler=self.scheduler, accumulate=2, max_grad_norm=1.0, after_step=one_step,
                after_epoch=end_epoch)


def train(folder: Path, resume: bool = False, *, optimizer: str = "ours",
          after_step: Callable[[int], None] = lambda step: None, **settings) -> None:
    """A whole script: begin or resume, train, load the best epoch, predict with it, finish."""
    toy = Toy(optimizer)
    with RunFolder(folder) as run:
        session = toy.session(run, **settings)
        if resume and run.has_checkpoint():
            session.resume()
        else:
            run.begin({"identity": toy.identity})
        toy.fit(session, after_step)
        session.load_best()
        with torch.no_grad():
            predictions = toy.model.eval()(toy.data.features)
        run.finish({"best epoch": session.best_epoch, "predictions": fingerprint({"predictions": predictions})})


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the bits of tensors, written apart from the code it checks."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + bytes(tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).tolist()))
    return digest.hexdigest()


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder, but for those that tell of the process: no two runs share them."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in (".lock", "times.jsonl", "run.json")}
