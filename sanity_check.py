"""Check your five files, part by part, against known answers.

    ./setup.sh sanity_check.py                  against PyTorch, and Hugging Face on a small random checkpoint
    ./setup.sh sanity_check.py --model gpt2     the same, and once more on real weights (or those of a folder)

Each line gives the largest difference found, and what is checked; a failure names the likely mistake. A part that is
not written yet stops only the checks that need it. Nothing is downloaded unless --model names a model on the Hugging
Face hub. Exit status: 0 when everything passes, 1 otherwise.
"""

import importlib
from pathlib import Path

from common import cli
from common.student_files import describe


def main() -> int:
    """Check every part; 0 if all checks pass."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--model", help="also compare with Hugging Face on this model: a name or a folder")
    model_name = parser.parse_args().model

    from models.hub import resolve
    real = resolve(model_name) if model_name else None  # before PyTorch: a wrong name should be said at once

    from sanity.checks import TOLERANCE, Result, run

    results: list[Result] = []

    def check(title: str, file: str, name: str, room: str, *arguments: object, checks: str = "CHECKS",
              first_decides: bool = False) -> None:
        """Run a room's checks on a class of a student's file; a file that cannot be imported fails one check."""
        try:
            kind = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
            found = getattr(importlib.import_module(f"sanity.{room}"), checks)
        except Exception as error:
            where, line, what = describe(error)
            print(f"\n{title} ({file})\n  FAIL  -      {file} cannot be imported\n        {where}:{line}: {what}")
            results.append(Result(float("inf")))
        else:
            results.extend(run(f"{title} ({file})", found, kind, *arguments, first_decides=first_decides))

    print(f"Each line: the largest difference from the known answer (at most {TOLERANCE:.0e})")
    check("AdamW", "optimizer.py", "AdamW", "optimizer", first_decides=True)
    check("attention", "modules/attention.py", "CausalSelfAttention", "attention", first_decides=True)
    check("layer", "modules/gpt2_layer.py", "GPT2Layer", "layer", first_decides=True)
    check("model", "models/gpt2.py", "GPT2Model", "model", checks="PARTS")
    from sanity.model import REAL, small_checkpoint
    with small_checkpoint() as folder:
        check("model, on a small random checkpoint", "models/gpt2.py", "GPT2Model", "model", folder, checks="WHOLE")
    if real:
        check(f"model, on {model_name}", "models/gpt2.py", "GPT2Model", "model", real, REAL, checks="REAL_CHECKS")
    check("classifier", "classifier.py", "GPT2SentimentClassifier", "head")
    if "finetuning" not in Path(__file__).with_name("classifier.py").read_text(encoding="utf-8", errors="replace"):
        print("        classifier.py is a program of its own; to train its head with this\n"
              "        repository's loop and data: ./setup.sh -m finetuning --quick")

    passed = sum(result.passed for result in results)
    print(f"\n{passed} of {len(results)} checks passed")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    cli.run(main)
