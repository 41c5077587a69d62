"""The parts of benchmarks.gpu that check: does a device compute what the CPU does, and the same bits again?"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from benchmarks.gpu import RECORD, ROOT

WITHOUT_SKLEARN = """
import runpy, sys, types
from importlib.machinery import ModuleSpec
class Majority:
    def __init__(self, *words, **settings): pass
    def fit(self, texts, labels):
        self.label = max(sorted(set(labels)), key=list(labels).count)
        return self
    def predict(self, texts):
        import numpy
        return numpy.full(len(texts), self.label)
metrics = {"accuracy_score": lambda labels, predicted: sum(map(int.__eq__, labels, predicted)) / len(labels),
           "f1_score": lambda *labels, **settings: 0.0}
for name, content in {"": {}, ".metrics": metrics, ".feature_extraction": {}, ".linear_model": {
        "LogisticRegression": Majority}, ".feature_extraction.text": {"TfidfVectorizer": Majority},
        ".pipeline": {"make_pipeline": Majority}}.items():
    module = sys.modules["sklearn" + name] = types.ModuleType("sklearn" + name)
    vars(module).update(content, __spec__=ModuleSpec("sklearn" + name, None))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A program that runs a script where scikit-learn is missing: without macro-F1 and the bag of words, which have no part
in a model's weights."""


def say(kind: str, content: dict[str, Any]) -> None:
    """Hand a record to benchmarks.gpu."""
    print(RECORD + json.dumps({kind: content}), flush=True)


def check(what: str, ok: bool, found: str) -> None:
    """Hand on whether something is as it should be, and what was found."""
    say("check", {"what": what, "ok": bool(ok), "found": found})


def leave_out(why: str) -> NoReturn:
    """End this part: it cannot be done here."""
    print(why, flush=True)
    sys.exit(3)


def engine(to: SimpleNamespace) -> None:
    """Hold the engine to the definition on the device, and the device to the CPU."""
    from engine import agree
    from finetuning.model import SMALL
    from models.gpt2 import GPT2Model
    from optimizer import AdamW

    device = torch.device(to.device)
    small = GPT2Model(SMALL).to(device)
    agreement = agree.check_gpt2(small, SMALL.num_attention_heads, SMALL.vocab_size)
    check(f"engine's GPT-2, float32 on {device}", bool(agreement), str(agreement))
    agreement = agree.check_adamw(AdamW, device)
    check(f"engine's AdamW, float32 on {device}", bool(agreement), str(agreement))
    ours, theirs = half_precision_errors(small)
    check(f"engine's GPT-2, bfloat16 on {device}", ours <= 2 * theirs + 1e-3,
          f"off by {ours:.2g} from the definition in float32, the definition in bfloat16 by {theirs:.2g}")
    for precision in ("float32", "bfloat16"):
        first_batch(device, precision)


def half_precision_errors(gpt: nn.Module) -> tuple[float, float]:
    """The largest relative errors in bfloat16, against the definition in float32: the engine's, the definition's.

    Of vectors and all gradients, dropout off: of the last tokens with padding on the right, of all with holes.
    """
    from engine.agree import distance, randomise, texts
    from engine.gpt2 import FastGPT2
    from finetuning.model import SMALL

    device = next(gpt.parameters()).device
    fast = FastGPT2(gpt, SMALL.num_attention_heads)
    randomise(gpt)
    gpt.eval()
    worst = [0.0, 0.0]
    for kind, ours in (("last_token", fast.last_token), ("last_hidden_state", fast.all_tokens)):
        ids, mask = (tensor.to(device) for tensor in texts(SMALL.vocab_size, holes=kind != "last_token"))

        def outcome(forward: Callable, half: bool, kind=kind, ids=ids, mask=mask) -> list[Tensor]:
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                vectors = forward(ids, mask)[kind].float()
            vectors = vectors if kind == "last_token" else vectors[mask.bool()]
            return [vectors, *torch.autograd.grad(vectors.sin().sum(), list(gpt.parameters()))]

        exact = outcome(gpt, half=False)
        for place, forward in enumerate((ours, gpt)):
            errors = map(distance, outcome(forward, half=True), exact)
            worst[place] = max(worst[place], *errors)
    return worst[0], worst[1]


def first_batch(device: torch.device, precision: str) -> None:
    """Compare gpt2-tiny's logits for the first batch with the CPU's, as each run of classifier.py does."""
    from benchmarks.ours import make_model_and_optimizer
    from data.tasks import TASKS
    from data.tokenizer import Tokenizer
    from finetuning.features import read_splits
    from finetuning.settings import TINY, Settings
    from training.machine import Machine
    from training.same_as_cpu import WrongDevice, logits, require_same

    task, there = TASKS["sst-sample"], Machine(device, precision)
    settings = Settings(model=str(TINY), fine_tune_mode="full-model")
    classifier = make_model_and_optimizer(settings, task, Machine(), TINY)[0].classifier
    batch = read_splits(task, Tokenizer.load(TINY), task.max_length)["train"].dataset.collate(range(16))
    expected = logits(classifier, batch, Machine())
    found = logits(classifier.to(device), batch, there)
    words = f"logits differ by {float((found - expected).abs().max()):.2g}"
    try:
        require_same(expected, found, there)
        check(f"first batch on {device} in {precision}, against the CPU", True, words)
    except WrongDevice as error:
        check(f"first batch on {device} in {precision}, against the CPU", False, str(error))


def tests(to: SimpleNamespace) -> None:
    """Run the tests of the engine that take a device, on this one."""
    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if missing:
        leave_out(f"{' and '.join(missing)} not installed")
    # Without pyproject.toml, which asks for a new pytest and for plugins that may be missing.
    chosen = "cpu and autocast" if to.device == "cpu" else "cuda"
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(ROOT), "-p",
                           "no:cacheprovider", "--import-mode=importlib", "-k", chosen, "tests/engine/test_gpt2.py",
                           "tests/engine/test_adamw.py"], cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    said = done.stdout.strip().splitlines() or ["it said nothing"]
    check(f"tests on {to.device}", done.returncode == 0 and "passed" in said[-1], said[-1])


def classifier(to: SimpleNamespace, name: str, *more: str) -> list[str]:
    """The command of a short training run into OUT/bits/NAME."""
    program = ["classifier.py"] if find_spec("sklearn") else ["-c", WITHOUT_SKLEARN, "classifier.py"]
    model, size = ROOT / "models" / "gpt2-tiny", ["--save-steps", "20"]
    if to.tiny:
        model = toy(Path(to.out, "bits", "toy"))
        size = ["--batch-size", "100", "--max-length", "8", "--save-steps", "2"]
    folder = str(Path(to.out, "bits", name))
    return [sys.executable, *program, "--data", "sst-sample", "--model", str(model), "--fine-tune-mode", "full-model",
            "--epochs", "2", *size, "--device", to.device, "--deterministic", "--no-report", "--out", folder,
            "--predictions", f"{folder}/predictions", "--no-report", *more]


def toy(folder: Path) -> Path:
    """Make the folder of a toy GPT-2 with random weights, the same ones each time, and gpt2-tiny's tokenizer."""
    from models.config import GPT2Config
    from models.gpt2 import GPT2Model
    from models.pretrained import save_pretrained

    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=16384, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                       max_position_embeddings=64)
    save_pretrained(GPT2Model(shape), folder, tokenizer_file=ROOT / "models" / "gpt2-tiny" / "tokenizer.json")
    return folder


def train(command: list[str]) -> None:
    """Run a command to its end; fails, with its last words, if it does."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"a run of classifier.py ended with status {done.returncode}")


def bits(to: SimpleNamespace, name: str) -> dict[str, bytes]:
    """What a run has left that must repeat: the classifier, the predictions, the metrics of each epoch."""
    run = Path(to.out, "bits", name, "sst-sample-full-model")
    paths = [run / "model" / "model.safetensors", run / "log.jsonl", *sorted((run / "predictions").glob("*.csv"))]
    return {path.name: path.read_bytes() for path in paths}


def compare(what: str, one: dict[str, bytes], other: dict[str, bytes]) -> None:
    """Check that two runs have left the same bits."""
    differing = [name for name in one if one[name] != other.get(name)]
    check(what, one.keys() == other.keys() and not differing,
          f"these differ: {', '.join(differing)}" if differing else f"{len(one)} files of two runs are equal")


def repeat(to: SimpleNamespace) -> None:
    """Train twice with --deterministic."""
    shutil.rmtree(Path(to.out, "bits"), ignore_errors=True)
    for name in ("first", "second"):
        train(classifier(to, name))
    compare("--deterministic twice", bits(to, "first"), bits(to, "second"))


def resume(to: SimpleNamespace) -> None:
    """Kill a run in the middle, resume it, and compare it with one that was left alone."""
    if not Path(to.out, "bits", "first", "sst-sample-full-model", "result.json").exists():
        train(classifier(to, "first"))
    whole = bits(to, "first")
    shutil.rmtree(Path(to.out, "bits", "killed"), ignore_errors=True)
    last = Path(to.out, "bits", "killed", "sst-sample-full-model", "last.json")
    process = subprocess.Popen(classifier(to, "killed"), cwd=ROOT)
    while process.poll() is None and not last.exists():
        time.sleep(0.01)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        sys.exit("the run ended before it could be killed")
    step = json.loads(last.read_bytes())["step"]
    train(classifier(to, "killed", "--resume"))
    compare(f"killed after step {step} and resumed", whole, bits(to, "killed"))
