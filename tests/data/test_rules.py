"""Each named rule by itself, and the choice of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from data.rules import (
    COURSE_RULES,
    RULES,
    Rules,
    drop_break_tags,
    map_control_characters,
    strip_spaces,
    unquote_again,
)


@pytest.mark.parametrize(("text", "want"), [
    ('" """""" Good """""" he said "', ' """ Good """ he said '),
    ('"a ""b"""', 'a "b"'),
    (' """ Good """ ', ' """ Good """ '),  # train's form: begins with a space
    ('"Good"', '"Good"'),  # quoted once, by its author
    ('"Good" or "bad"', '"Good" or "bad"'),
    ('"a ""b"" "c""', '"a ""b"" "c""'),  # one inner mark is not doubled
    ('"', '"'), ('""', '""'), ('"""', '"""'), ("", ""),
])
def test_unquote_again(text, want):
    """Catches a rule that eats the quote marks of a text that was quoted by its author, not by csv."""
    assert unquote_again(text) == want


@given(st.text(alphabet='" ab', max_size=12).map(lambda text: " " + text))
def test_unquote_again_undoes_csv_quoting(text):
    """Catches any text that a second round of quoting changes and the rule does not bring back."""
    again = '"' + text.replace('"', '""') + '"' if '"' in text else text
    assert unquote_again(again) == text
    assert unquote_again(text) == text  # so train and dev, which begin with a space, stay as they are


def test_map_control_characters():
    """Catches C1 characters read as Latin-1, and other characters touched."""
    assert map_control_characters("a \x96 b\x97 \x91c\x85") == "a – b— ‘c…"
    assert map_control_characters("\x81\x8d\x8f\x90\x9dé\xa0\x7f\n") == "é\xa0\x7f\n"


@pytest.mark.parametrize(("text", "want"), [
    ("it.<br /><br />In", "it. In"),
    ("city . < br /><br />This", "city . This"),
    ("a <br / > b", "a b"),
    ("a<BR>b<br/>", "a b "),
    ("one.<br /Another", "one. Another"),  # both stand in CFIMDB, with their ">" lost
    ("it.<br / Come", "it. Come"),
    ("a < b and breaks <bra>", "a < b and breaks <bra>"),
])
def test_drop_break_tags(text, want):
    """Catches a broken-up tag left over, glued words, doubled spaces, an ordinary "<" taken for a tag."""
    assert drop_break_tags(text) == want


def test_strip_spaces():
    """Catches the course's leading space, which only some files have."""
    assert strip_spaces(" a  b \t") == "a  b"


def test_choice():
    """Catches a rule that cannot be switched off, comes in the wrong order, or is on by default."""
    text = '" it is n\'t ""it"" \x96<br />yes "'
    assert Rules()(text) == text
    assert COURSE_RULES(text) == 'it is n\'t "it" – yes'
    assert COURSE_RULES.without("break-tags")(text) == 'it is n\'t "it" –<br />yes'
    for name in COURSE_RULES.names:
        assert COURSE_RULES.without(name)(text) != COURSE_RULES(text)


def test_unknown_name():
    """Catches a misspelt rule that is silently ignored."""
    for act in (lambda: Rules(("stripp",)), lambda: Rules().without("stripp")):
        with pytest.raises(UserError, match="there is no rule 'stripp'; the rules are unquote-again, control-ch"):
            act()


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_any_text(text):
    """Catches a rule that raises, and one that is not done in one go where it says that it is."""
    for name, rule in RULES.items():
        once = rule(text)
        if name in ("control-characters", "strip"):
            assert rule(once) == once


@pytest.mark.parametrize("text", ["<" * 10**6, "<br" + " " * 10**6, " " * 10**6, '"' * 10**6, "`" * 10**6,
                                  "<br " * 10**5, "'" * 10**6, "-LRB" * 10**5, "( " * 10**5])
def test_linear_time(text):
    """Catches a pattern that backtracks: a hostile megabyte would then take hours."""
    for rule in RULES.values():
        rule(text)
