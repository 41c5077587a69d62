"""Write a fine-tuned classifier as ONNX, from the student's own modules, and hold it to them."""

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cli import progress
from common.errors import UserError, quoted
from serving.model_folder import FineTuned

BATCHES = (1, 2, 7)
TOLERANCE = 1e-4  # of logits, relative to the largest
INPUTS = ("input_ids", "attention_mask")


def write(model: FineTuned, path: Path, limit: int) -> None:
    """Write model.onnx: input_ids, attention_mask, int64 [B, T] -> logits, float32 [B, num_labels].

    UserError if PyTorch cannot trace the classifier, or if the traced one gives other logits for another B or T.
    """
    ids, mask = batch(model, 2, min(5, limit))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # on checks that a trace leaves out; other results would be found below
        try:
            torch.onnx.export(model.classifier, (ids, mask), str(path), input_names=list(INPUTS),
                              output_names=["logits"], dynamo=False,
                              dynamic_axes={**{name: {0: "B", 1: "T"} for name in INPUTS}, "logits": {0: "B"}})
        except Exception as error:  # whatever a student's module does under the tracer
            raise UserError(f"classifier.py cannot be traced for ONNX: {quoted(error, 200)}") from error

    session = open_session(path)
    for T in progress(list(lengths(limit)), "comparing", "length"):
        for B in BATCHES:
            ids, mask = batch(model, B, T)
            with torch.inference_mode():
                want = model.classifier(ids, mask)
            try:
                got = torch.from_numpy(session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0])
            except Exception as error:  # the library's errors share no base class
                raise UserError(f"model.onnx fails for {B} texts of {T} tokens: {quoted(error, 200)}") from error
            if got.shape != want.shape or not (got - want).abs().max() <= TOLERANCE * max(1, want.abs().max()):
                raise UserError(f"model.onnx gives other logits for {B} texts of {T} tokens: what classifier.py "
                                "computes depends on their number or length in a way that a trace does not keep")


def lengths(limit: int) -> Iterator[int]:
    """Yield the lengths to compare: 1, 2, 3, 4, then ever fewer, and the limit."""
    T = 1
    while T < limit:
        yield T
        T += max(1, T // 2)
    yield limit


def batch(model: FineTuned, B: int, T: int) -> tuple[Tensor, Tensor]:
    """Return random ids and mask [B, T]: the first text full, the others of any length."""
    generator = torch.Generator().manual_seed(100 * T + B)
    ids = torch.randint(model.config.vocab_size, (B, T), generator=generator)
    long = torch.randint(1, T + 1, (B, 1), generator=generator)
    long[0] = T
    return ids, (torch.arange(T) < long).long()


def open_session(path: Path) -> "onnxruntime.InferenceSession":  # noqa: F821
    """Open an ONNX file for the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def probabilities(folder: Path, texts: Sequence[str]) -> Tensor:
    """Return what an exported folder says of the texts, in one batch, as its card shows: float64 [N, num_labels]."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    tokenizer.encode_special_tokens = True
    tokenizer.enable_truncation(settings["model_max_length"], direction=settings["truncation_side"])
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(settings["pad_token"]), pad_token=settings["pad_token"])
    rows = tokenizer.encode_batch(list(texts))
    inputs = {"input_ids": np.array([row.ids for row in rows]),
              "attention_mask": np.array([row.attention_mask for row in rows])}
    (logits,) = open_session(folder / "model.onnx").run(None, inputs)
    return torch.from_numpy(logits).double().softmax(dim=1)
