"""Make the starter that students are handed, and prove that it gives nothing away.

    ./setup.sh -m staff.release build --out DIR     write the starter to a new folder
    ./setup.sh -m staff.release prove               build it many times, try everything, write docs/starter.md
    ./setup.sh -m staff.release handout             write the tables and the figure of docs/assignment.md
"""

import tempfile
from pathlib import Path

from common import cli
from common.errors import UserError


def main() -> int:
    """Build, prove or write; 1 if a claim of the proof does not hold."""
    parser = cli.Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="build|prove|handout")
    commands.add_parser("build", help="write the starter").add_argument("--out", required=True, metavar="DIR")
    commands.add_parser("prove", help="prove that the starter gives nothing away")
    commands.add_parser("handout", help="write the tables and the figure of docs/assignment.md")
    arguments = parser.parse_args()

    from staff.release.build import ROOT, build
    from staff.release.markers import MarkerError

    try:
        if arguments.command == "build":
            out = Path(arguments.out)
            if out.exists():
                raise UserError(f"{out} exists already: name a new folder")
            print(f"{len(build(out))} files in {out}")
            return 0

        if arguments.command == "handout":
            from staff.release import handout

            handout.write()
            print(f"{handout.PAGE} and {handout.FIGURE} are written")
            return 0

        from staff.release.proof import as_markdown, prove

        with tempfile.TemporaryDirectory() as folder:
            table = prove(Path(folder))
    except MarkerError as error:
        raise UserError(str(error)) from None
    for line in table:
        print(f"{'ok  ' if line.holds else 'FAIL'}  {line.claim}: {line.shown}")
    (ROOT / "docs" / "starter.md").write_text(as_markdown(table), encoding="utf-8")
    return 0 if all(line.holds for line in table) else 1


if __name__ == "__main__":
    cli.run(main)
