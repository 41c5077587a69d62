"""results.json by Gradescope's contract: complete, valid, small and silent about hidden inputs, whatever happens."""

import json
import math
import stat
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from common.errors import UserError
from staff.grader import grade as grading
from staff.grader import gradescope, receipts
from staff.grader.case import CASES, Case, Request, Wrong
from staff.grader.grade import PUBLIC, Entry, Late, blank, declared, grade
from staff.grader.gradescope import Words, results, run, time_allowed, write
from staff.grader.intake import Submission
from staff.grader.metadata import Previous, next_scored, read_metadata, read_time, withheld
from staff.grader.sandbox import Reply
from submission import manifest

SECRET = b"5" * 64
FILES = dict.fromkeys(manifest.SOURCES, b"x = 1\n")
RIGHT = Reply({"y": np.zeros(1)})


class Box:
    """Answers in the place of the sandbox: with a Reply, or with what a function makes of the request."""

    seconds, level = 10.0, "L0"

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, files, request):
        self.asked.append(request)
        return self.answer(request) if callable(self.answer) else self.answer


@pytest.fixture
def points(monkeypatch):
    """Declare three tests: two of the attention, one of the layer. Their inputs hold a random number."""
    def attention(rng):
        got = yield Request("attention.forward", {"x": rng.random()})
        if got["y"].any():
            raise Wrong("y[0] is 1, not 0")
        return "with the erf GELU"

    cases = {name: Case(name, f"Title of {name}", attention)
             for name in ("attention.one", "attention.two", "layer.one")}
    monkeypatch.setattr(grading, "CASES", cases)
    return {name: Entry(f"{number}", 10.0) for number, name in enumerate(cases)}


def graded(points, answer, **submission):
    """Return the results.json of a submission whose code answers like this."""
    taken = Submission(FILES, **submission)
    report = grade(taken, Box(answer), SECRET, points)
    receipt = receipts.receipt(report.verdicts, taken.sha256, SECRET, None, "L0")
    return json.loads(results(report, Words(), receipt, Previous(), 1.0))


def check_contract(found, points):
    """Hold a results.json to Gradescope's contract."""
    assert {type(found[name]) for name in ("score", "execution_time")} <= {int, float}
    assert found["stdout_visibility"] == "hidden"
    assert found["output_format"] == found["test_output_format"] == found["test_name_format"] == "text"
    assert [test["number"] for test in found["tests"]] == [entry.number for entry in points.values()]
    for test in found["tests"]:
        assert 0 <= test["score"] <= test["max_score"] and test["status"] in ("passed", "failed")
        assert test["name_format"] == test["output_format"] == "text" and test["output"]


def test_full_marks(points):
    """Catches: a passed test without its points, a test that is not listed, a remark that is lost."""
    found = graded(points, RIGHT)
    check_contract(found, points)
    assert found["score"] == 30 and [test["status"] for test in found["tests"]] == ["passed"] * 3
    assert found["tests"][0]["output"] == "passed\nwith the erf GELU"
    assert found["output"].startswith("30 of 30 points")


def test_one_component_fails_alone(points):
    """Catches: a mistake that costs other components; feedback from hidden inputs; feedback that nobody needs."""
    box = Box(lambda request: Reply({"y": np.ones(1)}) if len(box.asked) == 1 else
              Reply({"y": np.ones(1)}) if float(request.inputs["x"]) == public["attention.one"] else RIGHT)
    public = {name: grading.generator(PUBLIC, name).random() for name in points}
    report = grade(Submission(FILES), box, SECRET, points)
    assert [line.outcome.status for line in report.graded] == ["failed", "passed", "passed"]
    assert report.score == 20 and len(box.asked) == 3 + 2  # the layer is not run again
    assert [float(request.inputs["x"]) for request in box.asked[3:]] == [*public.values()][:2]
    found = json.loads(results(report, Words(), None, Previous(), 1.0))
    assert found["tests"][0]["output"] == "failed\nOn public inputs: y[0] is 1, not 0"


def test_no_word_about_hidden_inputs(points):
    """Catches: hidden inputs that leave by what the code says: an exception, its type, its print, a test's verdict."""
    def leak(request):
        number = repr(float(request.inputs["x"]))
        return Reply(None, f"Error{number}", number, f"{number}.py:1", printed=number)

    found = graded(points, leak)
    hidden = [repr(float(grading.generator(receipts.seed_of(SECRET, Submission(FILES).sha256), name).random()))
              for name in points]
    said = json.dumps([found["output"], [{**test, "extra_data": None} for test in found["tests"]]])
    assert not any(number in said for number in hidden)
    assert all(number in json.dumps(found["tests"][index]["extra_data"]) for index, number in enumerate(hidden))
    assert repr(float(grading.generator(PUBLIC, "layer.one").random())) in found["tests"][2]["output"]


def test_no_place_from_hidden_inputs(points):
    """Catches: hidden inputs that leave by the line on which NotImplementedError is raised (T20)."""
    public = [float(grading.generator(PUBLIC, name).random()) for name in points]
    found = graded(points, lambda request: RIGHT if float(request.inputs["x"]) in public else
                   Reply(error="not implemented", place=f"{request.inputs['x']}:1"))
    assert [test["output"] for test in found["tests"]] == [
        *["not implemented: modules/attention.py"] * 2, "not implemented: modules/gpt2_layer.py"]


@pytest.mark.parametrize("odd", [{"printed": 3}, {"seconds": math.nan}])
def test_results_that_cannot_be_written_are_a_grader_error(autograder, points, monkeypatch, odd):
    """Catches: a reply of an impossible kind that leaves a submission without any results.json; NaN in the JSON."""
    monkeypatch.setattr(gradescope, "Sandbox", lambda minimum: Box(replace(RIGHT, **odd)))
    run(autograder, autograder / "source", "L0")
    check_contract(read(autograder), points)
    assert read(autograder)["output"].startswith("GRADER ERROR")


def test_right_on_public_inputs_only(points):
    """Catches: a student who is told that all is right when the hidden inputs say otherwise."""
    public = [float(grading.generator(PUBLIC, name).random()) for name in points]
    found = graded(points, lambda request: RIGHT if float(request.inputs["x"]) in public else Reply({"y": np.ones(1)}))
    assert found["score"] == 0 and "On public inputs of the same kind it passes" in found["tests"][0]["output"]


@pytest.mark.parametrize("reply, output, status", [
    (Reply(error="not implemented", message="x", place="modules/attention.py:3"),
     "not implemented: modules/attention.py:3", "not implemented"),
    (Reply(error="time"), "failed\nIt took too long.", "failed"),
    (Reply(error="no reply"),
     "failed\nIts process ended without an answer.\nOn public inputs: no reply:  ()", "failed"),
    (Reply(error="not run"), "not run: the time for all tests was over", "not run"),
    (Reply(error="ValueError", message="\x1b[2J<b>\0\ud800", place="a.py:1"),
     "failed\nOn public inputs: ValueError: \\x1b[2J<b>\\x00\\ud800 (a.py:1)", "failed"),
])
def test_what_a_student_reads(points, reply, output, status):
    """Catches: a control character, a NUL or half a character in a student's own words; a status that is not told."""
    found = graded(points, reply)
    check_contract(found, points)
    assert found["tests"][0]["output"] == output and found["tests"][0]["extra_data"]["status"] == status


def test_a_broken_or_missing_file_fails_by_its_own_line(points):
    """Catches: code that does not parse sent to the sandbox again and again; a missing file without its name."""
    line = "modules/attention.py:2: not valid Python"
    found = graded(points, RIGHT, broken={"modules/attention.py": line}, notes=[line])
    assert [test["output"] for test in found["tests"][:2]] == [f"failed: {line}"] * 2 and found["score"] == 10
    report = grade(Submission({"modules/attention.py": b""}), Box(RIGHT), SECRET, points)
    assert report.verdicts == {"attention.one": "passed", "attention.two": "passed", "layer.one": "not implemented"}


def test_an_endless_file_does_not_use_up_the_others_time(points, monkeypatch):
    """Catches: twenty tests of one file that each wait to the end, so that the other files are never run."""
    many = {f"attention.{number}": Case(f"attention.{number}", "x", grading.CASES["attention.one"].function)
            for number in range(9)} | {"layer.one": grading.CASES["layer.one"]}
    monkeypatch.setattr(grading, "CASES", many)
    box = Box(lambda request: Reply(error="time") if len(box.asked) < 10 and len(box.asked) != 4 else RIGHT)
    report = grade(Submission(FILES), box, SECRET, {name: Entry("1", 1.0) for name in many})
    statuses = [*report.verdicts.values()]
    assert statuses == ["failed"] * 3 + ["not run"] * 6 + ["passed"] and report.score == 1


def test_the_own_deadline(points):
    """Catches: a run that goes on until Gradescope ends it with a score of 0; a test that was not run and counts."""
    report = grade(Submission(FILES), Box(RIGHT), SECRET, points, deadline=time.monotonic())
    assert {*report.verdicts.values()} == {"not run"}

    def late(request):
        if len(box.asked) == 2:
            raise Late
        return RIGHT

    box = Box(late)
    report = grade(Submission(FILES), box, SECRET, points)
    assert [*report.verdicts.values()] == ["passed", "not run", "not run"] and report.score == 10


@pytest.mark.parametrize("limit, allowed", [("600", 540), ("1200", 1140), ("60", 45), ("", 540), ("x", 540),
                                            ("nan", 540), ("-3", 540), ("inf", 540)])
def test_the_margin_below_gradescopes_limit(monkeypatch, limit, allowed):
    """Catches: a limit that is not read, or no margin below it."""
    monkeypatch.setenv("TIMEOUT_SECONDS", limit)
    assert time_allowed() == allowed


def test_a_bug_of_the_grader_is_told_apart(points):
    """Catches: honest work at 0 for our own mistake (T31): no word, no earlier score, or a traceback for students."""
    def bug(request):
        raise KeyError("ours")

    report = grade(Submission(FILES), Box(bug), SECRET, points)
    found = json.loads(results(report, Words(), None, Previous(best=22.5), 1.0))
    check_contract(found, points)
    assert found["score"] == 22.5 and found["output"].startswith("GRADER ERROR") and "22.5" in found["output"]
    assert all(test["output"] == gradescope.GRADER_ERROR for test in found["tests"])
    assert "KeyError" in found["tests"][0]["extra_data"]["measured"]
    assert json.loads(results(report, Words(), None, Previous(best=99.0), 1.0))["score"] == 30  # not above the points


def test_a_results_file_always_fits(points):
    """Catches: a file of more than 100,000 characters, which Gradescope cuts in two; a verdict cut away with it."""
    flood = "\u00e9\U0001f600" * 30_000
    found = graded(points, Reply(None, flood, flood, flood, flood), notes=[flood] * 50)
    assert len(json.dumps(found, indent=1)) < 100_000
    assert found["output"].startswith("0 of 30 points") and len(found["tests"]) == 3


def test_numbers_are_finite(points):
    """Catches: NaN in the JSON, which Python reads and Gradescope need not (T29)."""
    report = grade(Submission(FILES), Box(RIGHT), SECRET, points)
    report.leaderboard = {"good": 0.5, "bad": math.nan, "worse": math.inf}
    content = results(report, Words(), None, Previous(), 1.0)
    assert json.loads(content, parse_constant=pytest.fail)["leaderboard"] == [{"name": "good", "value": 0.5}]


@pytest.mark.parametrize("content, best", [
    (None, 0), (b"", 0), (b"[]", 0), (b'{"previous_submissions": null}', 0), (b"\xff", 0),
    (b'{"previous_submissions": [{"score": "7.5"}, {"score": 9, "autograder_error": true}, {"score": null}]}', 7.5),
    (b'{"previous_submissions": [{"score": NaN, "results": 3}]}', 0),
    (b'{"previous_submissions": [{"score": 3, "results": {"extra_data": {"receipt": {"tests": {}}}}}]}', 3),
])
def test_metadata(tmp_path, content, best):
    """Catches: a crash on metadata of another form; e-mail addresses that a student's code can read (T21)."""
    path = tmp_path / "submission_metadata.json"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o644)
    assert read_metadata(path).best == best
    assert content is None or stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (read_metadata(path).receipt is not None) == (best == 3)


HOUR, NOON = timedelta(hours=1), datetime(2026, 11, 27, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize("hours, next_hour", [
    ([], None), ([-1], None), ([-1, -2], 22),  # two a day: the third comes too early
    ([-1, -24], None),  # a day has passed since the first of them
    ([-1, -2, -3], 21), ([-1, -2, -3, -4], 20),  # those that were not scored do not move the next one away
    ([-30, -29, -28, -1], None),  # -28 was not scored
    ([0, 1, -1], None),  # a regrade: later submissions, and this one itself, are not earlier ones
])
def test_how_many_are_scored_in_a_day(hours, next_hour):
    """Catches: a student who climbs the leaderboard by many tries (T29); one who is shut out by tries that failed."""
    found = next_scored([NOON + hour * HOUR for hour in hours], NOON, 2)
    assert found == (None if next_hour is None else NOON + next_hour * HOUR)


def test_the_daily_limit_holds_at_every_time():
    """Catches: a day at midnight, at which twice as many are scored; a limit that scores fewer than it says."""
    rng, made = np.random.default_rng(0), [NOON]
    scored = []
    for _ in range(300):
        if next_scored(made[:-1], made[-1], 3) is None:
            scored.append(made[-1])
        made.append(made[-1] + float(rng.exponential(4)) * HOUR)
    assert all(scored[index + 3] - scored[index] >= 24 * HOUR for index in range(len(scored) - 3))
    for one in set(made[:-1]) - {*scored}:
        assert sum(one - 24 * HOUR < other < one for other in scored) == 3


@pytest.mark.parametrize("text, hour", [
    ("2026-11-27T12:00:00Z", 0), ("2026-11-27T05:00:00.000000-07:00", 0), ("2026-11-27T13:00:00", 1),
    ("yesterday", None), (None, None), (7, None)])
def test_the_times_of_gradescope(text, hour):
    """Catches: times of two zones that are compared as texts; a crash on what is no time."""
    assert read_time(text) == (None if hour is None else NOON + hour * HOUR)


def test_what_the_metadata_says_of_time(tmp_path):
    """Catches: the clock in the place of created_at, by which a regrade would differ; the grader's error as a try."""
    path = tmp_path / "submission_metadata.json"
    path.write_text(json.dumps({"created_at": "2026-11-27T12:00:00Z", "previous_submissions": [
        {"submission_time": "2026-11-27T11:00:00Z", "score": 1}, {"submission_time": None, "score": 2},
        {"submission_time": "2026-11-27T11:30:00Z", "score": 0, "autograder_error": True}]}))
    found = read_metadata(path)
    assert found.created == NOON and found.times == (NOON - HOUR,)
    assert withheld(found, 2) == withheld(found, 0) == withheld(replace(found, created=None), 1) == ""
    assert "made after 2026-11-28 11:00:00 UTC" in withheld(found, 1)


def test_above_the_daily_limit_only_the_test_labels_are_not_asked(autograder, points, monkeypatch):
    """Catches: an accuracy on hidden labels that leaves all the same; tests of code or dev files that are not run."""
    monkeypatch.setattr(grading, "CASES", grading.CASES | CASES)
    points |= {name: Entry("6", 1.0, threshold=0.1) for name in CASES if name.startswith("predictions.")}
    hidden = [name for name in points if name.endswith("-test")]
    monkeypatch.setattr(grading.predictions, "leaderboard", lambda *_: {"SST test": 0.5})
    (autograder / "submission_metadata.json").write_text(json.dumps({
        "created_at": "2026-11-27T12:00:00Z", "previous_submissions": [{"submission_time": "2026-11-27T11:00:00Z"}]}))
    (autograder / "submission" / "predictions").mkdir()
    (autograder / "submission" / "predictions" / "full-model-sst-dev-out.csv").write_bytes(b"x")

    for daily, scored in ((2, True), (1, False)):
        run(autograder, autograder / "source", "L0", daily)
        found = read(autograder)
        told = {test["extra_data"]["test"]: test["output"] for test in found["tests"]}
        assert bool(found["leaderboard"]) == scored
        receipt = found["extra_data"]["receipt"]  # a replay, which has no limit, says why it comes to another verdict
        changed = receipts.changes(receipt, receipt | {"tests": {}, "limited": None})
        assert ("the daily limit's effect changed" in changed[0]) != scored
        assert [name for name in told if "24 hours" in told[name]] == ([] if scored else hidden) and len(hidden) == 4
        assert ("scored if it is made after 2026-11-28 11:00:00 UTC" in found["output"]) != scored
    (autograder / "submission_metadata.json").unlink()
    run(autograder, autograder / "source", "L0", 1)
    assert "no created_at" in read(autograder)["extra_data"]["staff"][0] and read(autograder)["leaderboard"]


def test_nothing_at_the_results_path_is_followed(tmp_path):
    """Catches: a link put at results.json so that the grader writes elsewhere (T5)."""
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "results.json").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "results.json", b"{}")
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    assert not (tmp_path / "results.json").is_symlink() and (tmp_path / "results.json").read_bytes() == b"{}"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def autograder(tmp_path, monkeypatch, points):
    """Lay out /autograder's folders, with the solution's file names, and a box that answers at once."""
    for name, content in FILES.items():
        (tmp_path / "submission" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "submission" / name).write_bytes(content)
    (tmp_path / "source").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "source" / "secret").write_bytes(SECRET)
    monkeypatch.setattr(gradescope, "declared", lambda labels: points)
    monkeypatch.setattr(gradescope, "Sandbox", lambda minimum: Box(RIGHT))
    monkeypatch.setattr(gradescope.canary, "check", lambda box: None)
    return tmp_path


def read(root):
    return json.loads((root / "results" / "results.json").read_bytes())


def test_a_whole_run(autograder, points, capsys):
    """Catches: folders that others can read, a file that is not there, an own deadline that stays armed."""
    assert run(autograder, autograder / "source", "L0") == 0
    check_contract(read(autograder), points)
    assert read(autograder)["score"] == 30
    for folder in ("results", "source"):
        assert stat.S_IMODE((autograder / folder).stat().st_mode) == 0o700
    assert gradescope.signal.getitimer(gradescope.signal.ITIMER_REAL) == (0, 0)
    receipt = read(autograder)["extra_data"]["receipt"]
    assert receipt["secret"] == receipts.commitment(SECRET) and receipt["sandbox"] == "L0"
    assert json.dumps(receipt) in read(autograder)["output"]


@pytest.mark.parametrize("breaks", ["canary", "secret", "sandbox", "exit"])
def test_a_grader_that_fails_says_so(autograder, points, monkeypatch, breaks):
    """Catches: no results.json, a score of 0 without a word, a traceback in front of students."""
    def fail(*_, **__):
        raise {"exit": SystemExit}.get(breaks, RuntimeError)("an attack won: hidden words")

    if breaks == "secret":
        (autograder / "source" / "secret").unlink()
    elif breaks == "sandbox":
        monkeypatch.setattr(gradescope, "Sandbox", fail)
    else:
        monkeypatch.setattr(gradescope.canary, "check", fail)
    (autograder / "submission_metadata.json").write_text('{"previous_submissions": [{"score": 12}]}')
    run(autograder, autograder / "source", "L0")
    found = read(autograder)
    check_contract(found, points)
    assert found["score"] == 12 and found["output"].startswith("GRADER ERROR")
    assert "hidden words" not in json.dumps({**found, "extra_data": None})
    assert "Traceback" in found["extra_data"]["staff"][0]


def test_a_submission_that_is_refused(autograder, points):
    """Catches: a grader error for what is the student's to mend, or a list without the tests."""
    for path in sorted((autograder / "submission").rglob("*.py")):
        path.unlink()
    run(autograder, autograder / "source", "L0")
    found = read(autograder)
    check_contract(found, points)
    assert found["score"] == 0 and "GRADER ERROR" not in found["output"]
    assert "could not be read: none of optimizer.py" in found["output"]


def test_a_hanging_sandbox_is_left_in_time(autograder, points, monkeypatch):
    """Catches: a test that never returns, after which Gradescope writes 0 for everything."""
    real, armed = gradescope.signal.setitimer, []

    def hang(request):
        if len(box.asked) == 1:
            return RIGHT
        real(gradescope.signal.ITIMER_REAL, 0.1, 0.2)  # the deadline comes while this test runs, and again
        time.sleep(60)

    box = Box(hang)
    monkeypatch.setattr(gradescope, "Sandbox", lambda minimum: box)
    monkeypatch.setattr(gradescope.signal, "setitimer", lambda which, seconds, again=0:
                        armed.append((seconds, again)) if seconds else real(which, 0))
    run(autograder, autograder / "source", "L0")
    found = read(autograder)
    check_contract(found, points)
    assert armed == [(pytest.approx(time_allowed()), 5)]
    assert found["score"] == 10 and "not run" in found["tests"][1]["output"]


def test_the_next_submission_hears_what_changed(autograder, points):
    """Catches: a score that moved without a reason."""
    run(autograder, autograder / "source", "L0")
    before = read(autograder)
    before["extra_data"]["receipt"]["tests"]["attention.two"] = "failed"
    (autograder / "submission_metadata.json").write_text(
        json.dumps({"previous_submissions": [{"score": 20, "results": before}]}))
    (autograder / "submission" / "optimizer.py").write_bytes(b"x = 2\n")
    run(autograder, autograder / "source", "L0")
    said = read(autograder)["output"]
    assert "Since your last submission: 1 test changed its verdict; the submission changed" in said
    assert "attention.two: failed -> passed" in said


def test_hidden_tests_are_not_in_a_students_receipt(points):
    """Catches: the verdict of a hidden test in the visible receipt."""
    points["attention.two"] = replace(points["attention.two"], visibility="hidden")
    found = graded(points, RIGHT)
    assert "attention.two" not in found["output"] and "attention.one" in found["output"]
    assert found["extra_data"]["receipt"]["tests"]["attention.two"] == "passed"


def test_the_declared_tests_belong_to_the_cases(tmp_path):
    """Catches: a test without points, points without a test, two kinds of typing errors in points.json."""
    for content in ("{}", "[]", "{", '{"attention.known_answer": {"number": "1", "points": -1}}',
                    '{"attention.known_answer": {"number": "1"}}',
                    '{"attention.known_answer": {"number": "1", "points": 1, "visibility": "public"}}'):
        (tmp_path / "points.json").write_text(content)
        with pytest.raises(UserError, match=r"points\.json"):
            declared(None, tmp_path / "points.json")


def test_blank_lists_every_test(points):
    """Catches: a report of a failed run that names only the tests it came to."""
    assert blank(points, "why").verdicts == dict.fromkeys(points, "not run")
