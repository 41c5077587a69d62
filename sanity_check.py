"""Check your attention, layer, model and classifier, part by part, against known answers.

    ./setup.sh sanity_check.py                  against PyTorch, and Hugging Face on a small random checkpoint
    ./setup.sh sanity_check.py --model gpt2     the same, and once more on real weights (or those of a folder)

Each line gives the largest difference found, and what is checked; a failure names the likely mistake. A part that is
not implemented yet stops only the checks that need it. Nothing is downloaded unless --model names a model on the
Hugging Face hub. Exit status: 0 when everything passes, 1 otherwise.
"""

import sys
from pathlib import Path

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
    from optimizer import AdamW
    from sanity import attention, head, layer, model, optimizer
    from sanity.checks import TOLERANCE, run

    print(f"Each line: the largest difference from the known answer (at most {TOLERANCE:.0e})")
    results = run("AdamW (optimizer.py)", optimizer.CHECKS, AdamW, first_decides=True)
    results += run("attention (modules/attention.py)", attention.CHECKS, CausalSelfAttention, first_decides=True)
    results += run("layer (modules/gpt2_layer.py)", layer.CHECKS, GPT2Layer, first_decides=True)
    results += run("model (models/gpt2.py)", model.PARTS, GPT2Model)
    with model.small_checkpoint() as folder:
        results += run("model, on a small random checkpoint", model.WHOLE, GPT2Model, folder)
    if real:
        results += run(f"model, on {model_name}", [model.parity], GPT2Model, real, model.REAL)
    results += run("classifier (classifier.py)", head.CHECKS, GPT2SentimentClassifier)
    if "finetuning" not in Path(sys.modules["classifier"].__file__).read_text(encoding="utf-8"):
        print("        classifier.py is a program of its own; to train its head with this\n"
              "        repository's loop and data: ./setup.sh -m finetuning --quick")

    passed = sum(result.passed for result in results)
    print(f"\n{passed} of {len(results)} checks passed")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    cli.run(main)
