"""Check your attention, layer, model and classifier, part by part, against known answers.

    ./setup.sh sanity_check.py                  against PyTorch, and Hugging Face on a small random checkpoint
    ./setup.sh sanity_check.py --model gpt2     the same, and once more on real weights (or those of a folder)

Each line says what is checked, the largest difference found and the largest allowed; a failure names the likely
mistake. A part that is not implemented yet stops only the checks that need it. Nothing is downloaded unless
--model names a model on the Hugging Face hub. Exit status: 0 when everything passes, 1 otherwise.
"""

from common import cli


def main() -> int:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--model", help="also compare with Hugging Face on this model: a name or a folder")
    model_name = parser.parse_args().model

    from models.hub import resolve
    real = resolve(model_name) if model_name else None  # before PyTorch: a wrong name should be said at once

    from classifier import GPT2SentimentClassifier
    from models.gpt2 import GPT2Model
    from modules.attention import CausalSelfAttention
    from modules.gpt2_layer import GPT2Layer
    from sanity import attention, head, layer, model
    from sanity.checks import run

    results = run("attention (modules/attention.py)", attention.CHECKS, CausalSelfAttention)
    results += run("layer (modules/gpt2_layer.py)", layer.CHECKS, GPT2Layer)
    results += run("model (models/gpt2.py)", model.PARTS, GPT2Model)
    with model.small_checkpoint() as folder:
        results += run("model, on a small random checkpoint", model.WHOLE, GPT2Model, folder)
    if real:
        results += run(f"model, on {model_name}", [model.parity], GPT2Model, real, model.REAL)
    results += run("classifier (classifier.py)", head.CHECKS, GPT2SentimentClassifier)

    passed = sum(result.passed for result in results)
    print(f"\n{passed} of {len(results)} checks passed")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    cli.run(main)
