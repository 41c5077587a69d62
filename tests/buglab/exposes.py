"""Functions such as a good student writes: they expose every public bug, and spare right classes."""

from types import SimpleNamespace

import torch

from models.config import GPT2Config


def config(**more):
    return GPT2Config(vocab_size=11, max_position_embeddings=8, hidden_size=4, num_hidden_layers=1,
                      num_attention_heads=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **more)


def random(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module.eval()


def expose_optimizer(AdamW):
    def moved(gradient, start=1.0, **options):
        p = torch.nn.Parameter(torch.tensor([start]))
        p.grad = torch.tensor([gradient])
        AdamW([p], **options).step()
        return start - p.item()

    p, q = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    p.grad, q.grad = torch.ones(1), torch.ones(1)
    AdamW([{"params": [p]}, {"params": [q], "lr": 0.2}], lr=0.1).step()
    return (abs(moved(0.3, lr=0.1, correct_bias=False) - 0.316) > 0.01
            or abs(moved(0.0, lr=0.1, weight_decay=0.5) - 0.05) > 0.01
            or abs((1 - p.item()) - 0.1) > 0.01 or abs((1 - q.item()) - 0.2) > 0.01)


def expose_attention(CausalSelfAttention):
    module = random(CausalSelfAttention(config()))
    x, none = torch.randn(1, 3, 4), torch.zeros(1, 1, 1, 3)
    with torch.no_grad():
        y = module(x, none)
        q, k, v = module.query(x), module.key(x), module.value(x)
        q = torch.nn.functional.linear(x, module.query.weight, module.query.bias)
        scores = (q @ k.mT / 2).masked_fill(~torch.ones(3, 3).tril().bool(), -1e9)
        padded = module(x, torch.tensor([0.0, -1e9, 0.0]).view(1, 1, 1, 3))
        hidden = (scores + torch.tensor([0.0, -1e9, 0.0])).softmax(-1) @ v
    return not (torch.allclose(y, scores.softmax(-1) @ v, atol=1e-4) and torch.allclose(padded, hidden, atol=1e-4))


def expose_layer(GPT2Layer):
    module = random(GPT2Layer(config()))
    x, none = torch.randn(1, 2, 4), torch.zeros(1, 1, 1, 2)
    with torch.no_grad():
        module.attention_dense.weight.zero_(), module.attention_dense.bias.zero_()
        module.attention_layer_norm.weight.zero_(), module.attention_layer_norm.bias.zero_()
        module.out_dense.weight.zero_()
        if not torch.allclose(module(x, none), x + module.out_dense.bias, atol=1e-5):
            return True
        module.out_dense.weight.fill_(1.0)
        y = module(x, none)
        norm = torch.nn.functional.layer_norm(x, (4,), module.out_layer_norm.weight, module.out_layer_norm.bias)
        inner = torch.nn.functional.gelu(module.interm_dense(norm))
        return not torch.allclose(y, x + module.out_dense(inner), atol=0.05)


def expose_model(GPT2Model):
    module = random(GPT2Model(config()))
    ids, mask = torch.tensor([[3, 4, 0]]), torch.tensor([[1, 1, 0]])
    with torch.no_grad():
        out = module(ids, mask)
        positions = module.pos_embedding.weight[:3]
        return not (torch.allclose(module.embed(ids), module.word_embedding.weight[ids] + positions)
                    and torch.equal(out["last_token"], out["last_hidden_state"][:, 1]))


def expose_head(GPT2SentimentClassifier):
    from models.gpt2 import GPT2Model
    from models.pretrained import backbone_given

    with backbone_given(GPT2Model, random(GPT2Model(config()))):
        module = random(GPT2SentimentClassifier(SimpleNamespace(num_labels=2, hidden_size=4, hidden_dropout_prob=1.0,
                                                                fine_tune_mode="last-linear-layer")))
    ids, mask = torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.long)
    normalised = abs(module(ids, mask).sum().item() - 1) < 1e-5
    dropped = bool((module.train()(ids, mask) == 0).all())
    return normalised or dropped
