"""Small random checkpoints, made by Hugging Face."""

import pytest
import torch

from sanity.checks import randomise


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory):
    """make_checkpoint(heads=4, ...) -> (folder, Hugging Face's GPT2LMHeadModel): every parameter random."""
    import transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def make(heads=4, C=48, layers=2, vocab=61, positions=12, dtype=torch.float32, scale=0.2, **more):
        config = transformers.GPT2Config(n_embd=C, n_head=heads, n_layer=layers, vocab_size=vocab,
                                         n_positions=positions, bos_token_id=0, eos_token_id=0, **more)
        config._attn_implementation = "eager"
        model = randomise(transformers.GPT2LMHeadModel(config), scale=scale).to(dtype).eval()
        folder = tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(folder)
        return folder, model

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint):
    """One checkpoint that tests may read but not change."""
    return make_checkpoint()
