"""Run a script and note when its first optimizer step is done.

    python -m benchmarks.first_step MARK SCRIPT ARGS...
"""

import runpy
import sys
import time
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook


def main() -> None:
    mark, script, sys.argv = Path(sys.argv[1]), sys.argv[2], sys.argv[2:]

    def note(*_: object) -> None:
        mark.write_text(str(time.time()))
        handle.remove()

    handle = register_optimizer_step_post_hook(note)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
