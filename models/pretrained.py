"""Read GPT-2 checkpoints in Hugging Face's layout into a GPT2Model, and write them.

Reading proves that the files hold the whole model: their names are exactly those of one table, every shape is right,
every parameter is filled, and nothing is left over. Nothing is unpickled.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.errors import quoted
from common.files import make_folder, read_bounded, replacing, write_atomic
from models.config import GPT2Config
from models.hub import (  # noqa: F401
    CONFIG,
    LARGEST_JSON,
    LIKE,
    WEIGHTS,
    PretrainedError,
    find_tensors,
    opened,
    read_json,
    resolve,
    some,
)

STATED = {  # name in config.json: our name; a checkpoint must state these
    "vocab_size": "vocab_size",
    "n_positions": "max_position_embeddings",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
}
OPTIONAL = {  # a checkpoint may leave these out; embd_pdrop is not read, as we have one hidden dropout
    "n_inner": "intermediate_size",
    "resid_pdrop": "hidden_dropout_prob",
    "attn_pdrop": "attention_probs_dropout_prob",
    "layer_norm_epsilon": "layer_norm_eps",
    "initializer_range": "initializer_range",
}
ARITHMETIC = {  # settings that change the arithmetic, each with the values implemented here, GPT-2's first
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False, True),  # the same numbers in another order
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True, False),  # an output layer of its own is a head: see models/heads.py
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
}
OUTPUT_LAYER = "lm_head.weight"
LARGEST_SIZE, MOST_LAYERS = 1_000_000, 1_000  # a larger configuration is nonsense, and building it would hang


@dataclass(frozen=True)
class Entry:
    """One tensor of a Hugging Face checkpoint, with the names of our parameters that it holds."""

    theirs: str  # its name, without the prefix `transformer.` of checkpoints saved with an output layer
    ours: tuple[str, ...]  # our names; several parameters lie one after another along the output dimension
    shape: list[int]  # in the file
    transposed: bool = False  # Hugging Face's Conv1D has weights [in, out]; those of nn.Linear are [out, in]


def table(config: GPT2Config) -> list[Entry]:
    """Return an Entry for every tensor of a GPT-2 of this shape."""
    C, inner = config.hidden_size, config.intermediate_size
    entries = [Entry("wte.weight", ("word_embedding.weight",), [config.vocab_size, C]),
               Entry("wpe.weight", ("pos_embedding.weight",), [config.max_position_embeddings, C])]

    def add(theirs: str, *ours: str, shape: list[int]) -> None:
        """Add weight and bias: of a LayerNorm, or of a Conv1D, which holds one or more of our nn.Linear."""
        entries.append(Entry(f"{theirs}.weight", tuple(f"{name}.weight" for name in ours), shape, len(shape) == 2))
        entries.append(Entry(f"{theirs}.bias", tuple(f"{name}.bias" for name in ours), shape[-1:]))

    for i in range(config.num_hidden_layers):
        theirs, ours = f"h.{i}", f"gpt_layers.{i}"
        add(f"{theirs}.ln_1", f"{ours}.attention_layer_norm", shape=[C])
        add(f"{theirs}.attn.c_attn", *(f"{ours}.self_attention.{x}" for x in ("query", "key", "value")),
            shape=[C, 3 * C])
        add(f"{theirs}.attn.c_proj", f"{ours}.attention_dense", shape=[C, C])
        add(f"{theirs}.ln_2", f"{ours}.out_layer_norm", shape=[C])
        add(f"{theirs}.mlp.c_fc", f"{ours}.interm_dense", shape=[C, inner])
        add(f"{theirs}.mlp.c_proj", f"{ours}.out_dense", shape=[inner, C])
    add("ln_f", "final_layer_norm", shape=[C])
    return entries


def read_config(folder: str | os.PathLike) -> GPT2Config:
    """Read config.json. PretrainedError if it is damaged, describes another model, or needs more than we implement."""
    path = Path(folder) / CONFIG
    raw = read_json(path)
    if raw.get("model_type") != "gpt2":
        raise PretrainedError(f"{path} is not a GPT-2's: its model_type is {quoted(raw.get('model_type'))}")
    for key, values in ARITHMETIC.items():
        if raw.get(key, values[0]) not in values:
            raise PretrainedError(f"{path}: {key} is {quoted(raw[key])}; this GPT-2 knows only "
                                  f"{' and '.join(map(str, values))}")
    for key in STATED:
        most = MOST_LAYERS if key == "n_layer" else LARGEST_SIZE
        if type(raw.get(key)) is not int or not 1 <= raw[key] <= most:
            raise PretrainedError(f"{path}: {key} must be an integer from 1 to {most}, not {quoted(raw.get(key))}")
    fields = {ours: raw[key] for key, ours in {**STATED, **OPTIONAL}.items() if raw.get(key) is not None}
    try:
        return GPT2Config(**fields)
    except (TypeError, ValueError) as error:
        message = str(error).replace("GPT2Config.", "")
        for theirs, ours in {**STATED, **OPTIONAL}.items():  # the names in the file
            message = message.replace(ours, theirs)
        raise PretrainedError(f"{path}: {message}") from error


class without_init(TorchFunctionMode):
    """Switches torch.nn.init off in a `with` block, to save time; every parameter must then be filled, as by `load`."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def check_weights(folder: str | os.PathLike, config: GPT2Config) -> dict[str, tuple[Path, str]]:
    """Check that a checkpoint holds exactly the model that `config` describes; reads only the headers of its files.

    Returns, for each tensor's name without prefix, the file that holds it and its name there; leaves out those of a
    head. Raises PretrainedError.
    """
    shapes = {entry.theirs: entry.shape for entry in table(config)}
    files = find_tensors(Path(folder))
    prefix = "" if "wte.weight" in files else "transformer."
    tensors = {key.removeprefix(prefix): (path, key) for key, path in files.items()
               if key.startswith(prefix) and key != OUTPUT_LAYER}  # what has no prefix is a head's
    if "gpt.word_embedding.weight" in files:
        raise PretrainedError(f"{folder} holds a classifier as classifier.py keeps it; export.py makes a folder of it "
                              "that can be read here")
    if missing := [name for name in shapes if name not in tensors]:
        raise PretrainedError(f"the weights in {folder} lack {some(missing)}, which {CONFIG} promises")

    # Old checkpoints also store the causal mask.
    masks = {f"h.{i}.attn.{name}" for i in range(config.num_hidden_layers) for name in ("bias", "masked_bias")}
    if unexpected := sorted(tensors.keys() - shapes.keys() - masks):
        raise PretrainedError(f"the weights in {folder} hold {some(unexpected)}, unknown to the GPT-2 that "
                              f"{CONFIG} describes")

    for path in sorted(set(files.values())):
        with opened(path) as file:
            for name in [name for name in shapes if name in tensors and tensors[name][0] == path]:
                header, key = file.get_slice(tensors[name][1]), tensors[name][1]
                if header.get_shape() != shapes[name]:
                    raise PretrainedError(f"{path}: {key} has shape {header.get_shape()}, "
                                          f"but {CONFIG} makes it {shapes[name]}")
                if header.get_dtype() not in ("F32", "F16", "BF16"):
                    raise PretrainedError(f"{path}: {key} has type {quoted(header.get_dtype())}; "
                                          "only F32, F16 and BF16 are read")
    return tensors


def load(kind: Callable[[GPT2Config], nn.Module], folder: str | os.PathLike, config: GPT2Config) -> nn.Module:
    """Build kind(config), a GPT2Model of any origin, with the weights of the checkpoint in `folder`, in eval mode.

    Parameters that a GPT-2 lacks, such as the course's `pooler_dense`, keep their initial values; without any, no
    random numbers are drawn. Raises PretrainedError as `load_weights` does.
    """
    check_weights(folder, config)  # before memory is taken for a checkpoint that is not there
    with without_init():
        gpt = kind(config)
    in_files = {name for entry in table(config) for name in entry.ours}
    if not in_files.issuperset(name for name, _ in gpt.named_parameters()):
        gpt = kind(config)  # once more, with initial values: no file fills the rest
    load_weights(gpt, folder, config)
    return gpt.eval()


def backbone_given(kind: type[nn.Module], gpt: nn.Module) -> AbstractContextManager:
    """Make kind.from_pretrained(...) return `gpt` inside: a course's classifier loads "gpt2" in its constructor."""
    return mock.patch.object(kind, "from_pretrained", lambda *args, **options: gpt)


def load_weights(model: nn.Module, folder: str | os.PathLike, config: GPT2Config) -> None:
    """Fill the parameters of `model`, a GPT2Model of any origin, by their names; each keeps its dtype.

    Needs memory for one tensor besides the model. Raises PretrainedError; some parameters may be filled already then.
    """
    tensors = check_weights(folder, config)
    entries = table(config)
    parameters = dict(model.named_parameters())
    if missing := [name for entry in entries for name in entry.ours if name not in parameters]:
        raise PretrainedError(f"models/gpt2.py: {type(model).__name__} has no parameter {some(missing)}; "
                              "the course's contract names them")
    with torch.no_grad():
        for entry in entries:
            _fill([parameters[name] for name in entry.ours], entry, *tensors[entry.theirs])


def _fill(parameters: list[Tensor], entry: Entry, path: Path, key: str) -> None:
    """Copy one tensor of a file into the parameters that it holds."""
    # Open the file again for each tensor: until it is closed, all pages read from it count as our memory.
    with opened(path) as file:
        tensor = file.get_tensor(key)
    tensor = tensor.T if entry.transposed else tensor
    for name, parameter, part in zip(entry.ours, parameters, tensor.chunk(len(parameters)), strict=True):
        if parameter.shape != part.shape:  # copy_ would broadcast silently
            raise PretrainedError(f"models/gpt2.py: {name} has shape {list(parameter.shape)}; "
                                  f"a GPT-2's is {list(part.shape)}")
        parameter.copy_(part)
        total = parameter.sum(dtype=torch.promote_types(parameter.dtype, torch.float32))
        if not math.isfinite(total):  # one NaN or infinity makes the sum NaN or infinite
            raise PretrainedError(f"{path}: {key} holds a number that is not finite, or is not in "
                                  f"{parameter.dtype}: the file may be damaged, get it again")


def save_pretrained(model: nn.Module, folder: str | os.PathLike, *, config: GPT2Config | None = None,
                    dtype: torch.dtype = torch.float32, tokenizer_file: str | os.PathLike | None = None,
                    like: str | None = None) -> None:
    """Write `model`, a GPT2Model, so that `load` and Hugging Face's AutoModelForCausalLM can read it.

    Writes config.json (for `config`, by default model.config; like: as hub.fine_tune_like reads it there), and
    model.safetensors in `dtype`. With `tokenizer_file`, a tokenizer.json, also copies this file and writes the
    tokenizer_config.json that AutoTokenizer needs. Each file is replaced atomically.
    """
    folder, config = Path(folder), config or model.config
    end_of_text = _write_tokenizer(folder, Path(tokenizer_file), config) if tokenizer_file else None

    make_folder(folder)
    with replacing(folder / WEIGHTS) as temporary:
        save_file(hugging_face_tensors(model.state_dict(), config, dtype), temporary, metadata={"format": "pt"})

    write_atomic(folder / CONFIG, json.dumps({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(config, name) for theirs, name in {**STATED, **OPTIONAL}.items()},
        "embd_pdrop": config.hidden_dropout_prob,
        **{key: values[0] for key, values in ARITHMETIC.items() if values[0] is not None},
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        **({LIKE: like} if like else {}),
        "dtype": str(dtype).removeprefix("torch."),
    }, indent=2) + "\n")


def hugging_face_tensors(ours: Mapping[str, Tensor], config: GPT2Config, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return our tensors, by our names, as the tensors of a Hugging Face checkpoint, in `dtype` on the CPU."""
    tensors = {}
    for entry in table(config):
        tensor = torch.cat([ours[name] for name in entry.ours])
        tensor = tensor.T if entry.transposed else tensor
        tensors[f"transformer.{entry.theirs}"] = tensor.to("cpu", dtype).contiguous()
    return tensors


def _write_tokenizer(folder: Path, file: Path, config: GPT2Config) -> int:
    """Copy tokenizer.json and write tokenizer_config.json; return the id of the end-of-text token."""
    try:
        special = [(token["content"], token["id"]) for token in read_json(file)["added_tokens"] if token["special"]]
        (end_of_text, number), = special
    except (KeyError, TypeError, ValueError) as error:
        raise PretrainedError(f"{file} is not a tokenizer.json with one special token, the end of text") from error
    make_folder(folder)
    if file.resolve() != (folder / "tokenizer.json").resolve():
        write_atomic(folder / "tokenizer.json", read_bounded(file, LARGEST_JSON))
    write_atomic(folder / "tokenizer_config.json", json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast",  # the file as it is; GPT2Tokenizer drops its normaliser
        "model_max_length": config.max_position_embeddings,
        "bos_token": end_of_text,
        "eos_token": end_of_text,
        "unk_token": end_of_text,
    }, indent=2) + "\n")
    return number

