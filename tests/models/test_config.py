"""GPT2Config: what it derives, and what it refuses."""

import dataclasses

import pytest

from models.config import GPT2Config


def test_defaults_are_the_124m_model():
    """Catches: a changed default, and an inner width that is not GPT-2's four times the hidden size."""
    config = GPT2Config()
    assert (config.vocab_size, config.max_position_embeddings) == (50257, 1024)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert config.intermediate_size == 3072
    assert config.layer_norm_eps == 1e-5


@pytest.mark.parametrize("field, value", [
    ("vocab_size", 0), ("hidden_size", -1), ("num_hidden_layers", True), ("num_attention_heads", 2.0),
    ("intermediate_size", -1), ("max_position_embeddings", "12"), ("hidden_dropout_prob", 1.1),
    ("hidden_dropout_prob", float("nan")), ("attention_probs_dropout_prob", -0.1), ("layer_norm_eps", -1.0),
    ("initializer_range", float("inf")), ("layer_norm_eps", 1e300), ("layer_norm_eps", True),
    ("hidden_dropout_prob", "0.1"), ("attention_probs_dropout_prob", None), ("initializer_range", [0.1]),
    ("layer_norm_eps", 10**400), ("layer_norm_eps", 1j)])
def test_nonsense_is_refused_by_name(field, value):
    """Catches: a configuration that fails later, far from its cause."""
    with pytest.raises(ValueError, match=field):
        GPT2Config(**{field: value})


def test_heads_must_divide_and_options_must_exist():
    """Catches: channels lost to an integer division, and misspelt options that are silently ignored."""
    with pytest.raises(ValueError, match="multiple of num_attention_heads"):
        GPT2Config(hidden_size=50, num_attention_heads=12)
    with pytest.raises(TypeError, match="num_layers"):
        GPT2Config(num_layers=24)
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPT2Config().hidden_size = 1
