"""Make every attack at both levels, and write docs/attacks.md. Takes root, Linux and some minutes.

    ./setup.sh -m tests.staff.grader.attacks
"""

import sys

from tests.staff.grader.attacks import campaign
from tests.staff.grader.attacks.all import ATTACKS
from tests.staff.grader.attacks.attack import PROMISES, ROOT, Attack

THREATS = {
    "T1": "read hidden tests, or the solution, from the disk",
    "T2": "read expected values from memory or the stack",
    "T3": "patch the runner, or what compares",
    "T4": "objects and replies that lie",
    "T5": "forge results.json",
    "T6": "write results.json late",
    "T7": "end early",
    "T8": "make a failure vanish",
    "T9": "pickles for the grader",
    "T10": "modules with the names of libraries",
    "T11": "names in a zip that leave its folder, or collide",
    "T12": "links and devices in a submission",
    "T13": "fill the disk; zip bombs",
    "T14": "take all the time",
    "T15": "fork and thread bombs",
    "T16": "take all the memory",
    "T17": "print without end; control characters",
    "T18": "HTML in feedback",
    "T19": "the network",
    "T20": "tell hidden inputs by what is visible",
    "T21": "steal tokens, e-mail addresses, earlier results",
    "T22": "signals and ptrace against the grader",
    "T23": "outlive the test",
    "T24": "answers learnt by heart",
    "T25": "call a library's implementation",
    "T26": "made-up predictions",
    "T27": "notice that it is graded",
    "T28": "change files while they are graded",
    "T29": "climb the leaderboard",
    "T30": "digits of other scripts in predictions",
    "T31": "a bug of the grader that costs honest work its points",
}
ELSEWHERE = {
    "T11": ["test_bad_submissions.py::test_what_is_refused",
            "test_intake.py::test_a_hostile_zip_is_refused_in_one_line"],
    "T12": ["test_intake.py::test_links_and_devices_in_a_folder"],
    "T13": ["test_intake.py::test_bombs_are_refused_before_they_cost_anything"],
    "T18": ["test_bad_submissions.py::test_what_attackers_say_is_shown_as_text"],
    "T20": ["test_bad_submissions.py::test_what_attackers_say_is_shown_as_text",
            "test_gradescope.py::test_no_word_about_hidden_inputs",
            "test_gradescope.py::test_no_place_from_hidden_inputs"],
    "T26": ["test_predictions_cases.py::test_staff_are_told_what_is_odd"],
    "T29": ["test_gradescope.py::test_how_many_are_scored_in_a_day",
            "test_gradescope.py::test_above_the_daily_limit_only_the_test_labels_are_not_asked",
            "test_gradescope.py::test_numbers_are_finite",
            "test_predictions_cases.py::test_test_accuracies_are_rounded_wherever_students_see_them"],
    "T30": ["test_predictions_cases.py::test_each_fault_of_form_is_told_in_one_line"],
    "T31": ["test_gradescope.py::test_a_bug_of_the_grader_is_told_apart"],
}
"Threats that are (also) tried by other tests in tests/staff/grader."

HEAD = """# Attacks on the grader

Each line is a submission that attacks the grader, most on wrong code, so that a point won is a point too many. Six
promises are held against each:

{promises}

"full level": as root, with every level. "L0 alone": an ordinary user who leaves the levels L1 to L3 off. An attack is
also made on a grader without defences; the column "breaks there" says which promise it breaks. "stopped by" is the
lowest level that stops it.

Full level, as measured: {held} of {count} attacks break no promise. L0 alone: {alone} of {count}.

| threat | attack | breaks there | stopped by | full level | L0 alone |
|---|---|---|---|---|---|
"""
FOOT = """
## Threats that other tests try

{elsewhere}

`./setup.sh -m tests.staff.grader.attacks` writes this page, as root; `tests/staff/grader/test_attacks.py` holds it.
"""


def row(attack: Attack) -> str:
    """Return the part of an attack's line that is not measured."""
    return (f"| {attack.threat}: {THREATS[attack.threat.split()[0]]} | {attack.name} | {attack.breaks or '-'} | "
            f"{attack.stops} |")


def cell(found: dict) -> str:
    """Return what an attack came to."""
    return f"**breaks {', '.join(sorted(found['broken']))}**" if found["broken"] else "holds"


def reasons(attack: Attack) -> str:
    """Return why promises do not hold with L0 alone."""
    return f"({'; '.join(dict.fromkeys(attack.degraded.values()))}) " if attack.degraded else ""


def main() -> int:
    """Write the page; return 1 if a promise is broken at the full level."""
    if not campaign.ROOTED:
        print("error: only root has every level: run this as root", file=sys.stderr)
        return 2
    full, alone = (campaign.sandbox(level, ATTACKS) for level in ("full", "degraded"))
    rows = [f"{row(attack)} {cell(full[attack.name])} | {cell(alone[attack.name])} {reasons(attack)}|"
            for threat in THREATS for attack in ATTACKS.values() if attack.threat.split()[0] == threat]
    held, held_alone = (sum(not found["broken"] for found in results.values()) for results in (full, alone))
    promises = "\n".join(f"- `{name}`: {text};" for name, text in PROMISES.items())
    others = "\n".join(f"- {threat}, {THREATS[threat]}: `tests/staff/grader/{place}`"
                       for threat, places in ELSEWHERE.items() for place in places)
    head = HEAD.format(promises=promises, count=len(ATTACKS), held=held, alone=held_alone)
    page = head + "\n".join(rows) + "\n" + FOOT.format(elsewhere=others)
    (ROOT / "docs" / "attacks.md").write_text(page, encoding="utf-8")
    print(f"Wrote docs/attacks.md: {held} of {len(ATTACKS)} hold at the full level, {held_alone} with L0 alone.")
    return int(held < len(ATTACKS))


if __name__ == "__main__":
    sys.exit(main())
