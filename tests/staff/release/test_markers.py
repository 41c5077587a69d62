"""Markers: what is a hole, and what is refused."""

import pytest

from staff.release.build import SOLUTION, hints
from staff.release.markers import MarkerError, fill, find_holes, helpers_left_behind, starter

SOURCE = '''class A:
    def f(self, x):
        """Docstring."""
        if x is None:
            return 0
        # BEGIN SOLUTION
        # the answer
        y = x + 1
        return y
        # END SOLUTION

    def g(self):
        return 2
'''


def test_a_hole_is_cut_out_and_put_back():
    """Catches: a lost line, a comment of the solution that stays, another indentation."""
    hint = {"a.py: A.f": ["Think first."]}
    cut = starter("a.py", SOURCE, hint)
    assert cut == SOURCE.replace("""        # BEGIN SOLUTION
        # the answer
        y = x + 1
        return y
        # END SOLUTION
""", """        # Think first.
        raise NotImplementedError("a.py: A.f")
""")
    assert fill("a.py", cut, SOURCE, hint) == SOURCE
    assert "y = x + 1" in (filled := starter("a.py", SOURCE, hint, filled=["a.py: A.f"])) and "SOLUTION" not in filled


@pytest.mark.parametrize("old, new, said", [
    ("        y = x + 1\n", "        # BEGIN SOLUTION\n        y = x + 1\n",
     "a.py:8: a hole begins inside the hole of line 6"),
    ("        # BEGIN SOLUTION\n", "", "a.py:9: a hole ends here, and none has begun"),
    ("        # END SOLUTION\n", "", "a.py:6: a hole begins here and never ends"),
    ("# BEGIN SOLUTION", "# BEGIN SOLUTON", "a.py:6: '# BEGIN SOLUTON' is misspelt"),
    ("# BEGIN SOLUTION", "#BEGIN SOLUTION", "a.py:6: '#BEGIN SOLUTION' is misspelt"),
    ("# END SOLUTION", "# end solution", "a.py:10: '# end solution' is misspelt"),
    ("# END SOLUTION", "# END SOLUTIONS of f", "a.py:10: '# END SOLUTIONS of f' is misspelt"),
    ('"""Docstring."""', '"""Docstring.\n        # BEGIN SOLUTION\n        """', "a.py:4: a marker in a string"),
    ("        return y\n        # END SOLUTION\n", "        return y  # END SOLUTION\n", "a.py:9: a marker needs a"),
    ("        # END SOLUTION\n\n    def g(self):\n        return 2\n",
     "\n    def g(self):\n        return 2\n        # END SOLUTION\n", "the hole crosses A.f and A.g"),
    ("        # END SOLUTION\n", "    # END SOLUTION\n", "a.py:10: END is not indented as BEGIN in line 6"),
    ("        # BEGIN SOLUTION\n        # the answer\n        y = x + 1\n        return y\n        # END SOLUTION\n",
     "        # BEGIN SOLUTION\n        # END SOLUTION\n", "a.py:6: the hole is empty"),
    ("class A:\n", "# BEGIN SOLUTION\nX = 1\n# END SOLUTION\nclass A:\n", "a.py:1: the hole is in no function"),
    ("        return 2\n", "        # BEGIN SOLUTION\n        a = 1\n        # END SOLUTION\n        # BEGIN SOLUTION\n"
     "        return 2\n        # END SOLUTION\n", "A.g has a second hole"),
])
def test_a_malformed_marker_is_refused(old, new, said):
    """Catches: a generator that goes by lines, and hands out half a solution or none."""
    assert old in SOURCE
    with pytest.raises(MarkerError, match=r"a\.py:\d+: ") as raised:
        find_holes("a.py", SOURCE.replace(old, new, 1))
    assert said in str(raised.value)


def test_a_cut_through_a_statement_is_refused():
    """Catches: a hole that leaves an `else` without its `if`, or a suite without a body."""
    source = ("def f(x):\n    # BEGIN SOLUTION\n    if x:\n        y = 1\n    # END SOLUTION\n"
              "    else:\n        y = 2\n    return y\n")
    with pytest.raises(MarkerError, match="cuts through the statements around line 3"):
        find_holes("a.py", source)


def test_words_about_solutions_are_no_markers():
    """Catches: a search so wide that ordinary comments are refused."""
    find_holes("a.py", "# The solution begins with the mean.\nX = 'begin with the solution'  # end of the story\n")


def test_a_helper_that_only_a_hole_uses_is_found():
    """Catches: a solution's helper function handed out with the starter."""
    source = SOURCE.replace("y = x + 1", "y = helper(x)") + "\n\ndef helper(x):\n    return x + 1\n"
    assert helpers_left_behind("a.py", source) == ["helper"]


def test_every_hole_has_a_hint_and_every_hint_a_hole(root):
    """Catches: a hole renamed in one place only."""
    holes = [hole.name for file in SOLUTION for hole in find_holes(file, (root / file).read_text(encoding="utf-8"))]
    assert sorted(holes) == sorted(hints(root))
