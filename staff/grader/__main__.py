"""Grade submissions: here by the hundred, or on Gradescope.

    ./setup.sh -m staff.grader seal secret
        writes a secret, and prints its hash for the handout
    ./setup.sh -m staff.grader build --out grader.zip --secret secret
        writes the zip to upload to Gradescope
    ./setup.sh -m staff.grader rehearse grader.zip
        runs that zip here, as Gradescope would
    ./setup.sh -m staff.grader grade submissions/ --out graded --secret secret
        grades zips and folders here, on all cores
    ./setup.sh -m staff.grader replay results.json ME.zip --secret secret
        comes to the same verdict again, test by test

Exit status: 0 done; 1 what is printed is not as it should be; 2 wrong command.
docs/grading.md explains all of this.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from common import cli
from common.errors import UserError


def parser() -> cli.Parser:
    """Return the command line."""
    top = cli.Parser(prog="staff.grader", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, does: str) -> cli.Parser:
        return commands.add_parser(name, help=does, description=does)

    seal = command("seal", "write a secret that nobody else can read; print its SHA-256 for the handout")
    seal.add_argument("file", metavar="FILE", type=Path)

    build = command("build", "write the zip to upload to Gradescope; it holds the secret, so keep it to yourself")
    build.add_argument("--out", metavar="ZIP", type=Path, required=True)
    build.add_argument("--secret", metavar="FILE", type=Path, help="what `seal` wrote (default: OUT.secret, made now)")
    build.add_argument("--labels", metavar="DIR", type=Path, help="hidden labels, to score predictions against")

    build.add_argument("--minimum", choices=("L0", "L1", "L2", "L3"), default="L1",
                       help="the sandbox's level below which nothing is graded (default: %(default)s, which root has)")
    build.add_argument("--daily", metavar="N", type=int, default=0,
                       help="score N submissions in 24 hours on the test labels, and on the leaderboard (default: all)")

    rehearse = command("rehearse", "run the zip's own run_autograder here: for the solution and for an empty starter")
    rehearse.add_argument("zip", metavar="ZIP", type=Path)
    rehearse.add_argument("--submission", metavar="PATH", type=Path, help="for this submission instead")

    grade = command("grade", "grade zips, folders, or folders of them; started again, it goes on")
    grade.add_argument("paths", metavar="PATH", type=Path, nargs="+")
    grade.add_argument("--out", metavar="DIR", type=Path, required=True, help="grades.csv, class.html, results/*.json")
    grade.add_argument("--secret", metavar="FILE", type=Path, help="what `seal` wrote (default: DIR/secret, made now)")
    grade.add_argument("--labels", metavar="DIR", type=Path, help="hidden labels, to score predictions against")
    grade.add_argument("--minimum", choices=("L0", "L1", "L2", "L3"), default="L0",
                       help="the sandbox's level below which nothing is graded (default: %(default)s)")
    grade.add_argument("--workers", metavar="N", type=int, default=min(20, len(os.sched_getaffinity(0))),
                       help="submissions at a time (default: one for each core, here %(default)s)")

    replay = command("replay", "grade a submission with a receipt's secret; say what differs from the receipt")
    replay.add_argument("receipt", metavar="RECEIPT", type=Path, help="a receipt, or the results.json that holds it")
    replay.add_argument("submission", metavar="SUBMISSION", type=Path)
    replay.add_argument("--secret", metavar="FILE", type=Path, required=True)
    replay.add_argument("--labels", metavar="DIR", type=Path)

    buglab = command("buglab", "grade a file of the bug lab: which hidden bugs its functions expose")
    buglab.add_argument("file", metavar="EXPOSES", type=Path)

    gradescope = commands.add_parser("gradescope")  # what run_autograder calls; nobody else needs it
    gradescope.add_argument("root", metavar="ROOT", type=Path)
    gradescope.add_argument("--minimum", default="L1")
    gradescope.add_argument("--daily", type=int, default=0)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    arguments = parser().parse_args(argv)
    for path in (getattr(arguments, "labels", None), *getattr(arguments, "paths", ())):
        if path is not None and not path.exists():
            raise UserError(f"there is no {path}")
    from staff.grader.canary import CanaryFailed
    from staff.grader.entries import Refused
    from staff.grader.sandbox import SandboxError

    try:
        return COMMANDS[arguments.command](arguments)
    except Refused as error:
        raise UserError(f"{arguments.submission}: {error}") from error
    except (CanaryFailed, SandboxError) as error:
        raise UserError(f"nothing was graded: {error}") from error


def seal(arguments) -> int:
    """Write a secret."""
    from staff.grader.receipts import seal

    print(f"sha256 of the secret, for the handout: {seal(arguments.file)}\n"
          f"Keep {arguments.file} to yourself until the deadline; publish it afterwards.")
    return 0


def build(arguments) -> int:
    """Write the zip for Gradescope."""
    from staff.grader.build import build
    from staff.grader.gradescope import write

    out = arguments.out
    if out.suffix != ".zip" or not out.parent.is_dir():
        raise UserError(f"--out {out}: give a file name that ends in .zip, in a folder that exists")
    if arguments.daily < 0:
        raise UserError("--daily must be at least 0, which scores all submissions")
    secret = secret_of(arguments.secret, out.with_suffix(".secret"))
    content = build(secret, arguments.labels, arguments.minimum, arguments.daily)
    write(out, content)
    print(f"Wrote {out}, {len(content):,} bytes. It holds the secret: upload it, and show it to nobody.")
    return 0


def rehearse(arguments) -> int:
    """Run the zip as Gradescope would."""
    from staff.grader.build import rehearse

    wrong = rehearse(arguments.zip, arguments.submission)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


def grade(arguments) -> int:
    """Grade many submissions."""
    from common.files import make_folder
    from staff.grader.batch import grade_all

    if arguments.workers < 1:
        raise UserError("--workers must be at least 1")
    make_folder(arguments.out)
    secret = secret_of(arguments.secret, arguments.out / "secret")
    return grade_all(arguments.paths, arguments.out, secret, arguments.labels, arguments.workers, arguments.minimum)


def replay(arguments) -> int:
    """Grade again, and compare with a receipt."""
    from staff.grader.batch import replay
    from staff.grader.receipts import changes, read_receipt, read_secret

    before = read_receipt(arguments.receipt)
    now = replay(before, arguments.submission, read_secret(arguments.secret), arguments.labels)
    print(*changes(before, now) or ["The same verdict, test by test."], sep="\n")
    return int(before["tests"] != now["tests"])


def buglab(arguments) -> int:
    """Grade a file of the bug lab."""
    from staff.grader.buglab import grade, total
    from staff.grader.intake import problems_of
    from staff.grader.sandbox import Sandbox

    try:
        content = arguments.file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {arguments.file}: {error.strerror}") from error
    if problem := problems_of({arguments.file.name: content}):
        raise UserError(*problem.values())
    with Sandbox() as box, cli.progress(total(), "bug lab", "class") as bar:
        grades = grade(content, box, bar.update)
    for part in grades:
        print(f"{part.part}: no function" if part.missing else
              f"{part.part}: {part.score:.2f}: exposed {len(part.exposed)} of {part.bugs} bugs, "
              f"blamed {len(part.blamed)} of {part.right} right classes")
    return 0


def gradescope(arguments) -> int:
    """Grade on Gradescope."""
    from staff.grader.gradescope import run

    return run(arguments.root, Path.cwd(), arguments.minimum, arguments.daily)


def secret_of(given: Path | None, own: Path) -> bytes:
    """Return the secret in the given file, or in our own one, which is made on the first run."""
    from staff.grader.receipts import read_secret, seal

    if given is None and not own.exists():
        print(f"No --secret was given: {own} is a new one (sha256 {seal(own)}).")
    return read_secret(given or own)


COMMANDS = {"seal": seal, "build": build, "rehearse": rehearse, "grade": grade, "replay": replay, "buglab": buglab,
            "gradescope": gradescope}

if __name__ == "__main__":
    cli.run(main)
