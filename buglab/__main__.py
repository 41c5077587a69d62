"""Find bugs in code that you cannot see.

    ./setup.sh -m buglab list           the twelve bugs, and which are open to you
    ./setup.sh -m buglab try 4          meet bug 4 with the functions in exposes.py (another file: --file FILE)
    ./setup.sh -m buglab grade FILE     the share of bugs that your functions expose, less false alarms

When a part of yours passes its checks, its bugs open: the same class with one mistake put in. You write a function that
gets a class, builds it, tries the smallest input that shows the mistake, and says whether the class is wrong:

    def expose_attention(CausalSelfAttention) -> bool: ...

One function has to do for all bugs of a part, and must not blame a right class: the grader has other bugs, and other
right ways. Exit status: 0 if everything asked for is exposed, 1 otherwise.
"""

from pathlib import Path

from common import cli
from common.errors import UserError


def main() -> int:
    """List, try or grade."""
    parser = cli.Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="list|try|grade")
    commands.add_parser("list", help="the bugs, and which are open")
    one = commands.add_parser("try", help="meet one bug")
    one.add_argument("number", type=int, metavar="N")
    one.add_argument("--file", default="exposes.py", help="your functions (default: exposes.py)")
    commands.add_parser("grade", help="the share of bugs exposed").add_argument("file", metavar="FILE")
    arguments = parser.parse_args()

    from buglab import lab
    from buglab.bugs import BUGS

    if arguments.command == "list":
        return show(lab)
    if arguments.command == "grade":
        return grade(lab, Path(arguments.file))

    if not 1 <= arguments.number <= len(BUGS):
        raise UserError(f"there are bugs 1 to {len(BUGS)}, no {arguments.number}")
    bug = BUGS[arguments.number - 1]
    kind, path = lab.own_class(bug.part), Path(arguments.file)
    exposes = lab.read_exposes(path) if path.exists() else {}
    if bug.part not in exposes:
        print(f"Bug {arguments.number} is in your {bug.part}. Write into {path}, then run this again:\n")
        print(lab.TEMPLATE.format(part=bug.part, name=lab.PARTS[bug.part][1]))
        return 1
    exposed, said = lab.try_bug(bug, kind, exposes[bug.part])
    print(f"bug {arguments.number}, {bug.part}: {said}")
    return 0 if exposed else 1


def show(lab) -> int:
    """Print each part's bugs, and whether they are open."""
    for part in lab.PARTS:
        numbers = ", ".join(map(str, lab.numbered(part)))
        try:
            lab.own_class(part)
            state = "open"
        except UserError:
            state = f"closed until ./setup.sh sanity_check.py --only {part} passes"
        print(f"{part:10} {numbers:9} {state}")
    return 0


def grade(lab, path: Path) -> int:
    """Print how many bugs each function exposes, and the grade on these bugs."""
    exposes = lab.read_exposes(path)
    killed = alarms = total = 0
    for part in lab.PARTS:
        bugs = lab.numbered(part)
        total += len(bugs)
        if part not in exposes:
            print(f"{part:10} 0 of {len(bugs)}  no function expose_{part}")
            continue
        kind = lab.own_class(part)
        if lab.says_wrong(exposes[part], kind) is not False:
            alarms += len(bugs)
            print(f"{part:10} 0 of {len(bugs)}  {lab.try_bug(next(iter(bugs.values())), kind, exposes[part])[1]}")
            continue
        found = [number for number, bug in bugs.items() if lab.try_bug(bug, kind, exposes[part])[0]]
        killed += len(found)
        missed = ", ".join(str(number) for number in bugs if number not in found)
        print(f"{part:10} {len(found)} of {len(bugs)}{f'  not exposed: {missed}' if missed else ''}")
    print(f"\n{killed} of {total} exposed{f', {alarms} lost to false alarms' if alarms else ''}")
    return 0 if killed == total else 1


if __name__ == "__main__":
    cli.run(main)
