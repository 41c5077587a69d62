"""Ask what the formulas answer, before the code is checked."""

import json
import math
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

QUESTIONS = json.loads(Path(__file__).with_name("questions.json").read_text(encoding="utf-8"))
"Part -> its questions: what to ask, the numbers that answer it, and why."


def ask(part: str, read: Callable[[str], str] = input) -> int:
    """Ask the questions about a part and explain each wrong answer; return how many answers were right.

    read: shows its argument and returns what is typed. An empty answer is a wrong one; the end of the input ends the
    questions.
    """
    right = 0
    print(f"\n{part}: three questions first (numbers, with spaces between them)")
    for question in QUESTIONS[part]:
        try:
            answer = read(textwrap.fill(question["ask"], 79) + "\n> ")
        except EOFError:
            return right
        if answers(answer, question["answer"]):
            right += 1
            print("  right")
        else:
            print(f"  it is {' '.join(map(str, question['answer']))}")
            print(textwrap.fill(question["why"], 79, initial_indent="  ", subsequent_indent="  "))
    return right


def answers(text: str, wanted: list[float]) -> bool:
    """Whether a text holds exactly the wanted numbers, in order, each to 2 percent. A fraction such as 1/2 is read."""
    numbers = []
    for word in re.findall(r"[-+−]?\d*\.?\d+(?:e[-+]?\d+)?(?:/\d+)?", text.lower()):
        top, _, bottom = word.replace("−", "-").partition("/")
        numbers.append(float(top) / float(bottom or 1) if float(bottom or 1) else math.inf)
    return len(numbers) == len(wanted) and all(
        math.isclose(number, want, rel_tol=0.02, abs_tol=1e-9) for number, want in zip(numbers, wanted, strict=True))
