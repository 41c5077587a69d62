"""Run the student's checks in several trees, one fork each, so that PyTorch is imported once.

    python -m staff.release.checks TREE...       prints one line of JSON for each: check -> "ok", "FAIL" or "TODO"
"""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

PARTS = (("optimizer", "optimizer", "AdamW", "optimizer", "CHECKS"),
         ("attention", "modules.attention", "CausalSelfAttention", "attention", "CHECKS"),
         ("layer", "modules.gpt2_layer", "GPT2Layer", "layer", "CHECKS"),
         ("model", "models.gpt2", "GPT2Model", "model", "PARTS"),
         ("whole", "models.gpt2", "GPT2Model", "model", "WHOLE"),
         ("head", "classifier", "GPT2SentimentClassifier", "head", "CHECKS"))
"Part, module and class of the student, module and list of its checks."


def run(tree: Path) -> dict[str, str]:
    """Import a tree's five files and checks, and return what each check says."""
    sys.path[:0] = [str(tree), str(tree / "course")]
    said = {}
    for part, module, name, room, checks in PARTS:
        kind = getattr(importlib.import_module(module), name)
        room = importlib.import_module(f"sanity.{room}")
        assert Path(room.__file__).is_relative_to(tree), f"{room.__file__} is not in {tree}"
        with room.small_checkpoint() if part == "whole" else contextlib.nullcontext() as folder:
            for check in getattr(room, checks):
                try:
                    status = "ok" if check(kind, *[folder] * (part == "whole")).passed else "FAIL"
                except NotImplementedError:
                    status = "TODO"
                said[f"{part}.{check.__name__}"] = status
    return said


def main() -> None:
    """Fork once for each tree."""
    import torch
    import torch._dynamo  # the first optimizer imports it
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401 (imported here, for all forks)

    torch.set_num_threads(1)
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path.cwd()]
    for tree in sys.argv[1:]:
        if not os.fork():
            print(json.dumps(run(Path(tree).resolve())), flush=True)
            os._exit(0)
        os.wait()


if __name__ == "__main__":
    main()
