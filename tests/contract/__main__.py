"""Write docs/contract.md: every set of files in every script, and what is said of every mistake.

    ./setup.sh -m tests.contract
"""

import tempfile
from pathlib import Path

from tests.contract import trial

HEAD = """# Files that others wrote

The course's contract is names, arguments and results. `tests/contract/sets` holds six sets of the five files, written
from the contract alone. Each takes the place of ours, in every script:

"""
MISTAKES = """
Fifty changes that students make, one at a time, and the first words of the checks about each
(`optimizer_test.py`, `sanity_check.py`). Two of them are right in another way, and pass:

| file | mistake | what is said |
|---|---|---|
"""
FOOT = """
`./setup.sh -m tests.contract` writes this page; `tests/contract/test_contract.py` holds it.
"""


def main() -> None:
    """Try everything, and write the page."""
    lines = [f"| set | {' | '.join(trial.SCRIPTS)} |", "|---|" + "---|" * len(trial.SCRIPTS)]
    for name in trial.names():
        with tempfile.TemporaryDirectory() as folder:
            done = trial.run_scripts(name, Path(folder))
        bad = ("Traceback", "FAIL", "TODO")
        lines.append(f"| {name} | " + " | ".join(
            "right" if status == 0 and not any(word in output for word in bad) else f"**status {status}**"
            for status, output in done.values()) + " |")
        print(lines[-1], flush=True)
    rows = []
    for mistake in trial.MISTAKES:
        edit = mistake["old"], mistake["new"]
        with tempfile.TemporaryDirectory() as folder, trial.in_place_of_ours(
                trial.copy_of(mistake["set"], Path(folder), only=mistake["file"], edit=edit)):
            said = trial.failures(mistake["file"])
        words = said[0].partition(": ")[2] if said else "passes"
        rows.append(f"| `{mistake['file']}` | {mistake['name']} | {words} |")
    page = HEAD + "\n".join(lines) + "\n" + MISTAKES + "\n".join(rows) + "\n" + FOOT
    (trial.ROOT / "docs" / "contract.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
