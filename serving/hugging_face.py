"""Write a fine-tuned classifier as Hugging Face's GPT2ForSequenceClassification, with the same probabilities."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError
from common.files import replacing, write_atomic
from finetuning.features import StoredFeatures
from finetuning.model import answer, texts
from models.config import GPT2Config
from models.fine_tuned import named_weights, shape_fields
from models.hub import CONFIG, WEIGHTS
from models.pretrained import hugging_face_tensors
from serving.hub_tokenizer import HubTokenizer
from serving.model_folder import FineTuned

SCALE = 64.0  # a power of two: dividing by it is exact
TOLERANCE = 1e-5
LEAST_SINGULAR = 1e-6  # of the largest singular value; what is smaller is rounding


class NotLinear(UserError):
    """The classifier is no GPT2ForSequenceClassification: its head is not linear, or cannot lose its bias."""


def linear_head(model: FineTuned) -> tuple[Tensor, Tensor]:
    """Return (weight [num_labels, C], bias [num_labels]), float64, of the linear map that a head of any make is.

    NotLinear if logits are not weight @ (last token's vector) + bias, on random vectors and on texts.
    """
    C, gpt = model.config.hidden_size, model.gpt

    def head(vectors: Tensor) -> Tensor:
        """[N, C] -> [N, num_labels]"""
        return answer(model.classifier, vectors, torch.ones(len(vectors), 1, dtype=torch.long), gpt=gpt,
                      forward=StoredFeatures().forward).double()

    ids, mask = texts(model.config)
    found = answer(model.classifier, ids, mask, gpt=gpt, forward=gpt.forward).double()
    vectors = answer(gpt, ids, mask, gpt=gpt, forward=gpt.forward)["last_token"]
    try:
        eye = SCALE * torch.eye(C)
        weight, bias = ((head(eye) - head(-eye)) / (2 * SCALE)).T, head(torch.zeros(1, C))[0]
        some = torch.randn(16, C, generator=torch.Generator().manual_seed(1)) * torch.logspace(-1, 2, 16)[:, None]
        pairs = [(some, head(some)), (vectors, found)]
    except Exception as error:  # a student's class, handed less than it reads, may raise anything
        raise NotLinear("classifier.py reads more of GPT-2 than each text's last_token, which "
                        "GPT2ForSequenceClassification does not") from error
    for inputs, logits in pairs:
        if not torch.allclose(inputs.double() @ weight.T + bias, logits, rtol=TOLERANCE, atol=TOLERANCE):
            raise NotLinear("the head in classifier.py is not linear in each text's last_token, as "
                            "GPT2ForSequenceClassification's is")
    return weight, bias


def fold(weight: Tensor, bias: Tensor) -> Tensor:
    """Return the vector [C] that a head without bias needs added to its input, for the same logits.

    Hugging Face's head has no bias, so its input, which the final LayerNorm's bias shifts, must bring it: weight @
    vector = bias. NotLinear if the weight, without full row rank, cannot give this bias.
    """
    vector = torch.linalg.pinv(weight, rtol=LEAST_SINGULAR) @ bias
    if not torch.allclose(weight @ vector, bias, rtol=TOLERANCE, atol=0.1 * TOLERANCE):
        raise NotLinear("the rows of the head's weight depend on each other, so its bias cannot go into the final "
                        "LayerNorm; GPT2ForSequenceClassification's head has none")
    return vector


def more_tokens(model: FineTuned, tokenizer: HubTokenizer) -> GPT2Config:
    """Give the model's word embedding vectors for the tokenizer's two new tokens; returns its new shape.

    That for an empty text is the end of text's, which stands for it here; padding's is zero.
    """
    old = model.gpt.word_embedding
    weight = torch.zeros(max(tokenizer.size, len(old.weight)), old.embedding_dim)
    weight[:len(old.weight)] = old.weight
    weight[tokenizer.pad_id] = 0.0
    weight[tokenizer.empty_id] = old.weight[model.tokenizer.pad_id]
    model.gpt.word_embedding = nn.Embedding.from_pretrained(weight)
    return GPT2Config(**{**vars(model.config), "vocab_size": len(weight)})


def write(model: FineTuned, config: GPT2Config, weight: Tensor, vector: Tensor, folder: Path) -> None:
    """Write model.safetensors: the backbone with `vector` added to its final bias, and the head's weight."""
    ours = dict(named_weights(model.gpt))
    ours["final_layer_norm.bias"] = ours["final_layer_norm.bias"].double() + vector
    tensors = {**hugging_face_tensors(ours, config, torch.float32), "score.weight": weight.float().contiguous()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def write_config(model: FineTuned, config: GPT2Config, tokenizer: HubTokenizer, like: str | None,
                 folder: Path) -> None:
    """Write config.json: shape, labels, and what the padding is. like: as in models.hub."""
    names, end_of_text = model.description.label_names, model.tokenizer.pad_id
    write_atomic(folder / CONFIG, json.dumps({
        "architectures": ["GPT2ForSequenceClassification"],
        **shape_fields(config),
        **({"fine_tune_like": like} if like else {}),
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": tokenizer.pad_id,
        "dtype": "float32",
        "problem_type": "single_label_classification",
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
    }, indent=2, ensure_ascii=False) + "\n")
