"""Check your five files, part by part, against known answers.

    ./setup.sh sanity_check.py                    every part
    ./setup.sh sanity_check.py --only attention   one part: optimizer, attention, layer, model or head
    ./setup.sh sanity_check.py --watch            a part again each time you save its file
    ./setup.sh sanity_check.py --predict          asks what the formulas answer before a part is checked
    ./setup.sh sanity_check.py --model gpt2       compares with Hugging Face on real weights, too (or a folder's)

Each line gives the largest difference found, and what is checked; a failure names the likely mistake. A part that is
not written yet stops only the checks that need it. The last line says what to do next. Nothing is downloaded unless
--model names a model on the Hugging Face hub. Exit status: 0 when everything passes, 1 otherwise.
"""

import contextlib
import importlib
import json
import sys
import textwrap
from pathlib import Path

from common import cli
from common.student_files import describe

ROOT = Path(__file__).resolve().parent

PARTS = {  # part -> the student's file, its class, and the title of its checks
    "optimizer": ("optimizer.py", "AdamW", "AdamW"),
    "attention": ("modules/attention.py", "CausalSelfAttention", "attention"),
    "layer": ("modules/gpt2_layer.py", "GPT2Layer", "layer"),
    "model": ("models/gpt2.py", "GPT2Model", "model"),
    "head": ("classifier.py", "GPT2SentimentClassifier", "classifier"),
}


def main() -> int:
    """Check every part, or those that were asked for; 0 if all checks pass."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="check this part")
    parser.add_argument("--watch", action="store_true", help="check a part again each time its file is saved")
    parser.add_argument("--predict", action="store_true", help="ask three questions before each part")
    parser.add_argument("--model", help="also compare with Hugging Face on this model: a name or a folder")
    arguments = parser.parse_args()
    parts = [arguments.only] if arguments.only else list(PARTS)

    from models.hub import resolve
    real = resolve(arguments.model) if arguments.model else None  # before PyTorch: a wrong name is said at once

    if arguments.watch:
        # Here, so that every fork has what takes seconds to import: PyTorch's optimizers and meta tensors import
        # torch._dynamo at their first use. The student's files are imported in the forks.
        import torch
        import torch._dynamo
        import transformers
        from transformers import GPT2Config, GPT2Model  # noqa: F401 (transformers imports its models when asked)

        from sanity.watch import watch

        transformers.logging.disable_progress_bar()
        torch.set_num_threads(1)  # threads do not survive a fork
        watch({part: ROOT / PARTS[part][0] for part in parts}, lambda part: check([part]),
              [sys.executable, __file__, "--only"])
    return check(parts, arguments.model, real, arguments.predict and sys.stdin.isatty())


def check(parts: list[str], model_name: str | None = None, real: Path | None = None, predict: bool = False) -> int:
    """Run the checks of some parts, say what to do next, and return the exit status.

    real: the folder of model_name's weights. predict: ask the questions about a part first.
    """
    from sanity.checks import TOLERANCE, Result, run

    results: dict[str, list[Result]] = {part: [] for part in parts}

    def run_checks(part: str, *arguments: object, title: str = "", checks: str = "CHECKS") -> None:
        """Run a list of checks on a student's class; a file that cannot be imported fails one check."""
        file, name, usual_title = PARTS[part]
        heading = f"{title or usual_title} ({file})"
        try:
            kind = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
            found = getattr(importlib.import_module(f"sanity.{part}"), checks)
        except Exception as error:
            where, line, what = describe(error)
            print(f"\n{heading}\n  FAIL  -      {file} cannot be imported\n        {where}:{line}: {what}")
            results[part].append(Result(float("inf")))
        else:
            first_decides = part != "model"
            results[part] += run(heading, found, kind, *arguments, first_decides=first_decides)

    print(f"Each line: the largest difference from the known answer (at most {TOLERANCE:.0e})")
    for part in parts:
        if predict:
            from sanity.questions import ask

            ask(part)
        run_checks(part, checks="PARTS" if part == "model" else "CHECKS")
        if part == "model":
            from sanity.model import REAL, small_checkpoint
            with small_checkpoint() as folder:
                run_checks(part, folder, title="model, on a small random checkpoint", checks="WHOLE")
            if real:
                run_checks(part, real, REAL, title=f"model, on {model_name}", checks="REAL_CHECKS")
    if "head" in parts and "finetuning" not in (ROOT / "classifier.py").read_text("utf-8", errors="replace"):
        print("        classifier.py is a program of its own; to train its head with this\n"
              "        repository's loop and data: ./setup.sh -m finetuning --quick")

    everything = [result for found in results.values() for result in found]
    passed = sum(result.passed for result in everything)
    print(f"\n{passed} of {len(everything)} checks passed")
    print(textwrap.fill(f"next: {next_step(results)}", 79, break_on_hyphens=False))
    return 0 if passed == len(everything) else 1


def next_step(results: dict[str, list]) -> str:
    """Say which hole to write or which failure to mend first, and where the handout derives it."""
    with contextlib.suppress(OSError):
        holes = json.loads((ROOT / "sanity" / "holes.json").read_text(encoding="utf-8"))
        for part, found in results.items():
            file = PARTS[part][0]
            if all(result.passed for result in found):
                continue
            waiting = [result.hole for result in found if not result.passed and result.hole]
            own = [name for name in holes if name.startswith(f"{file}: ")]
            # A hole of another part stops the whole model's checks: that part comes first.
            name = next((hole for hole in waiting if hole in holes), own[0])
            section = f"docs/assignment.md, section {holes[name]['section']}, {holes[name]['title']}"
            if waiting:
                return f"write {name.partition(': ')[2]} in {name.partition(': ')[0]} ({section})"
            whole = holes[name]["section"].partition(".")[0]
            return f"mend {file}, at the first failure above (docs/assignment.md, section {whole})"
    if len(results) == len(PARTS):
        return "./setup.sh classifier.py --quick"
    return "./setup.sh sanity_check.py, for every part"


if __name__ == "__main__":
    cli.run(main)
