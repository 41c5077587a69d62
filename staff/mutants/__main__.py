"""Show that the graded tests notice every known mistake, and how often a mistake is named rightly.

    ./setup.sh -m staff.mutants matrix            run every mistake and every right variant; write docs/kill-matrix.md
    ./setup.sh -m staff.mutants matrix --quick    each mistake against its named test; writes nothing
    ./setup.sh -m staff.mutants replies           write staff/grader/mistakes.npz, which diagnoses come from
    ./setup.sh -m staff.mutants accuracy          measure the diagnoses; write docs/diagnosis.md

Run `replies`, then `accuracy` and `matrix`, after a change of the solution, of a mistake or of a graded test.
Exit status: 0 done, 1 a mistake survives or a right variant loses points (each is printed), 2 wrong command.
"""

from collections.abc import Sequence

from common import cli


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = cli.Parser(prog="staff.mutants", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    matrix_command = commands.add_parser("matrix", help="each mistake is noticed, each right variant gets full marks")
    matrix_command.add_argument("--quick", action="store_true", help="only the named tests, on one seed")
    commands.add_parser("replies", help="write the table of what every mistake replies")
    commands.add_parser("accuracy", help="measure how often a mistake is named rightly")
    options = parser.parse_args(words)

    if options.command == "matrix":
        from staff.mutants import matrix

        wrong = matrix.run(options.quick)
        print(*wrong, f"{len(wrong)} complaints" if wrong else "every mistake is noticed, every variant has full marks",
              sep="\n")
        return int(bool(wrong))
    if options.command == "replies":
        from staff.mutants import replies

        for component, count in replies.build().items():
            print(f"{component}: {count} mistakes and pairs of mistakes")
        print(f"{replies.diagnosis.TABLE}: {replies.diagnosis.TABLE.stat().st_size / 1000:.0f} kB")
        return 0
    from staff.mutants import accuracy

    print(accuracy.run())
    return 0


if __name__ == "__main__":
    cli.run(main)
