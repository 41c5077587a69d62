"""The bundled gpt2-tiny: what Hugging Face makes of it, what it weighs, what it says of itself."""

import re

import pytest
import torch

from data.tokenizer import Tokenizer
from models.gpt2 import GPT2Model

TEXTS = ["It isn't bad!", "it is n't bad !", "-LRB- A long , dull film -RRB-",
         "Caf\u00e9: 8/10 \u2014 \u201cfine\u201d\u2026"]


@pytest.fixture(scope="module")
def folder(root):
    return root / "models" / "gpt2-tiny"


def test_transformers_load_it(folder):
    """Catches a folder that only this project can read: the same ids and, in float64, the same logits to 1e-9."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ours = GPT2Model.from_pretrained(str(folder)).double().eval()
    words = AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(TEXTS, Tokenizer.load(folder).encode(TEXTS, 512, lowercase=False).ids, strict=True):
        assert words(text).input_ids == ids
        batch = torch.tensor([ids])
        with torch.no_grad():
            hidden = ours(batch, torch.ones_like(batch))["last_hidden_state"]
            torch.testing.assert_close(ours.hidden_state_to_token(hidden), theirs(batch).logits, atol=1e-9, rtol=1e-9)


def test_it_stays_small(folder):
    """Catches weights in float32, and more than 32 MB in a repository that everybody clones."""
    assert sum(path.stat().st_size for path in folder.iterdir()) < 32e6


def test_its_card_tells_its_shape(folder):
    """Catches a card that describes an earlier model."""
    config, card = GPT2Model.from_pretrained(str(folder)).config, (folder / "README.md").read_text(encoding="utf-8")
    shape = f"{config.hidden_size}, {config.num_hidden_layers}, {config.num_attention_heads}"
    assert f"| width C, blocks, heads | {shape} |" in card
    assert f"| positions | {config.max_position_embeddings} |" in card
    assert f"| vocabulary | {config.vocab_size:,} tokens" in card
    size = (folder / "model.safetensors").stat().st_size / 1e6
    assert re.search(r"float16, ([\d.]+) MB", card)[1] == f"{size:.1f}"
