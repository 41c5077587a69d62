"""Write a class of 200 synthetic submissions: 100 with one mistake, 40 that are right in another way, 60 with two.

    ./setup.sh -m tests.staff.grader.synthetic class
    ./setup.sh -m staff.grader grade class --out graded

The names of the zips say what is in them. The same code gives the same bytes.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from common import cli
from common.files import make_folder
from staff.grader.build import pack
from staff.mutants.edit import Moved, edited
from staff.mutants.table import MUTANTS, VARIANTS


def submissions() -> Iterator[tuple[str, bytes]]:
    """Yield the ids of the changes to the solution, and the zip."""
    draw = random.Random(1)
    for id in draw.sample(sorted(MUTANTS), 100):
        yield id, pack(edited(MUTANTS[id]))
    for id in draw.sample(sorted(VARIANTS), 40):
        yield id, pack(edited(VARIANTS[id]))
    count = 0
    while count < 60:
        first, second = draw.sample(sorted(MUTANTS), 2)
        try:
            files = edited(MUTANTS[first], MUTANTS[second])
        except Moved:  # both change the same line
            continue
        yield f"{first}-{second}", pack(files)
        count += 1


def main() -> int:
    """Write the zips."""
    parser = cli.Parser(prog="tests.staff.grader.synthetic", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path)
    folder = parser.parse_args().folder
    make_folder(folder)
    for number, (name, content) in enumerate(submissions()):
        (folder / f"{number:03}-{name}.zip").write_bytes(content)
    print(f"Wrote {number + 1} zips into {folder}")
    return 0


if __name__ == "__main__":
    cli.run(main)
