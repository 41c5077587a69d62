"""How export.py's parts are put together: a model folder in, a folder for others out, compared before it is kept."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from common import cli
from common.errors import UserError
from common.files import make_folder, remove_temporaries, write_atomic
from common.student_files import explain_student_errors
from common.terminal import say
from models.hub import LIKE, PretrainedError, fine_tune_like
from serving import hub_tokenizer, hugging_face, onnx_file, space
from serving.card import card
from serving.export_settings import SPACE, WRITTEN, Settings
from serving.find import find
from serving.hugging_face import NotLinear
from serving.model_folder import FineTuned, build

TOLERANCE = 1e-4
"""Of probabilities. Rounding in float32 makes 1e-5 with gpt2-tiny; the other form of GELU makes 7e-4."""
TEXTS = ("It isn't bad!", "  IN CAPITALS, with spaces around \t", "a", " \t ", "the end<|endoftext|>",
         "<|pad|> . <br />", '"She said ""no"" twice"', "1/2 -LRB- ok -RRB-",
         "caf\x96 \u2014 \u4e2d\u6587 \U0001f600 \u039f\u0394\u039f\u03a3")
"""What reading a text can go wrong with; one that is too long is added for each model."""


def main(settings: Settings) -> NoReturn:
    """Do what export.py is asked to do; ends the process with its exit status."""
    cli.run(lambda: run(settings))


def run(settings: Settings) -> None:
    """Export, compare, and push if asked to."""
    with explain_student_errors(), cli.adding_advice({NotLinear: lambda error: "--format onnx takes any head"}):
        source = find(settings.run)
        model = build(source)
        texts = [*TEXTS, "no end of it " * model.description.max_length]
        want = probabilities(model, texts)
        with replacing_folder(settings.out) as folder:
            difference = write(settings, model, source, folder, texts, want)
        say(f"{settings.out}: {settings.format}, {model.description.num_labels} labels, "
            f"up to {model.description.max_length} tokens")
        say("not compared: the package transformers is not installed" if difference is None else
            f"its probabilities are this model's to {difference:.0e}, on {len(texts)} texts in one batch")
        if settings.push:
            push(settings.out, settings.push, not settings.public, "space" if settings.format == "space" else "model")


def write(settings: Settings, model: FineTuned, source: Path, folder: Path, texts: Sequence[str],
          want: Tensor) -> float | None:
    """Write all files of an export, and compare it; returns the largest difference, None if nothing compared."""
    limit = min(model.description.max_length, model.config.max_position_embeddings)
    tokenizer = hub_tokenizer.make(model.tokenizer.files(limit), model.description)
    onnx = settings.format == "onnx"
    if not onnx:
        weight, bias = hugging_face.linear_head(model)
        vector = hugging_face.fold(weight, bias)
    config = hugging_face.more_tokens(model, tokenizer)
    if onnx:
        onnx_file.write(model, folder / "model.onnx", limit)
    else:
        hugging_face.write(model, config, weight, vector, folder)
    for name, content in tokenizer.files.items():
        write_atomic(folder / name, content)
    run = source.parent if source.name == "model" else None
    record, result = (read(run / name) if run else {} for name in ("run.json", "result.json"))
    hugging_face.write_config(model, config, tokenizer, like_of(source, record), folder)
    write_atomic(folder / "README.md", card(model, settings, record, result))
    if settings.format == "space":
        space.write(folder, model.description, settings.push or settings.out.name)
    got = onnx_file.probabilities(folder, texts) if onnx else pipeline_probabilities(folder, texts)
    if got is None:
        return None
    difference = float((got - want).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(f"the exported model gives other probabilities, by up to {difference:.2g}: it is not kept\n"
                        "Is GPT-2 in models/gpt2.py and modules/ another than Hugging Face's? sanity_check.py says")
    return difference


def probabilities(model: FineTuned, texts: Sequence[str]) -> Tensor:
    """Return what the trained model says of each text, read alone: float64 [N, num_labels]."""
    with torch.inference_mode():
        rows = [torch.tensor([ids]) for ids in model.encode(list(texts))]
        return torch.cat([model.classifier(ids, torch.ones_like(ids)) for ids in rows]).double().softmax(dim=1)


def pipeline_probabilities(folder: Path, texts: Sequence[str]) -> Tensor | None:
    """Return what transformers' pipeline says of the texts, in one batch; None if it is not installed."""
    try:
        import transformers
    except ImportError:
        return None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    pipeline = transformers.pipeline("text-classification", model=str(folder), device="cpu", top_k=None,
                                     truncation=True)
    rows = [{row["label"]: row["score"] for row in rows} for rows in pipeline(list(texts), batch_size=len(texts))]
    names = [pipeline.model.config.id2label[label] for label in range(pipeline.model.config.num_labels)]
    return torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64)


def read(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a run; an empty one if there is none, or it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def like_of(source: Path, record: dict[str, Any]) -> str | None:
    """Return whose settings for fine-tuning suit this model, from its own config.json or that of its backbone."""
    settings = record.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    backbone = settings.get("model") or ("gpt2-tiny" if settings.get("quick") else None)
    own = read(source / "config.json").get(LIKE)
    if isinstance(own, str):
        return own
    with contextlib.suppress(PretrainedError, OSError):  # the backbone may have moved
        return fine_tune_like(backbone) if isinstance(backbone, str) else None
    return None


@contextlib.contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out`; after the block its files take their place in `out`, which holds only them."""
    make_folder(out.parent)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    try:
        yield temporary
        make_folder(out)
        try:
            # config.json goes first and comes last: without it, nobody takes the folder for a model.
            for path in sorted(out.iterdir(), key=lambda path: path.name != "config.json"):
                if path.name in WRITTEN | SPACE:
                    path.unlink()
            remove_temporaries(out)
            for path in sorted(temporary.iterdir(), key=lambda path: path.name == "config.json"):
                os.replace(path, out / path.name)
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def push(folder: Path, name: str, private: bool, kind: str = "model") -> None:
    """Put a folder's files on the Hugging Face hub; makes the repository if it is not there. UserError if it fails.

    kind: model or space, which have repositories of their own.
    """
    from huggingface_hub import HfApi, constants

    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True, repo_type=kind,
                        space_sdk="gradio" if kind == "space" else None)
        url = api.upload_folder(repo_id=name, folder_path=folder, repo_type=kind,
                                commit_message="Export of a fine-tuned classifier")
    except Exception as error:  # the library, its HTTP client and its file transfer share no base class
        again = " --repo-type space" if kind == "space" else ""
        why = str(error).strip().partition("\n")[0][:200]
        raise UserError(f"cannot put {folder} on {constants.ENDPOINT} as {name} ({type(error).__name__}: {why})\n"
                        f"The folder is complete; try again with `hf upload {name} {folder}{again}`") from error
    say(f"pushed to {getattr(url, 'repo_url', None) or name}")
