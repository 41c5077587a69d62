"""Ratings that texts state: found where a reader would find one, and then gone from the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ratings import take_out_rating


@pytest.mark.parametrize("text, left, rating", [
    ("A fine film. 8/10", "A fine film.", 8.0),
    ("A fine film: 8 / 10.", "A fine film: .", 8.0),
    ("I'd say 7.5/10, no more", "I'd say , no more", 7.5),
    ("Ich gebe 6,5/10!", "Ich gebe !", 6.5),
    ("10 out of 10 from me", "from me", 10.0),
    ("3 Out Of Ten", "", 3.0),
    ("8 stars out of 10 stars", "", 8.0),
    ("0/10", "", 0.0),
    ("8/10? Yes, 8/10.", "? Yes, .", 8.0),
])
def test_a_rating_is_taken_out(text, left, rating):
    """Catches a rating left in the text, where guessing it would be reading it; the wrong number; half points lost."""
    assert take_out_rating(text) == (left, rating)


@pytest.mark.parametrize("text", [
    "", "No rating here.", "Seen on 9/10/2001.", "on 10/9/10 or 1999/10/10", "9 out of 10 people left", "24/7", "9/11",
    "4 out of 10 times", "18/10", "110/10", "8/100", "8/10.5", "-3/10", "Acting 8/10, plot 3/10",
    "7/10ths of the film", "half/10"])
def test_what_is_no_rating_stays(text):
    """Catches dates, shares and marks for parts of a film taken for what the writer thinks of it."""
    assert take_out_rating(text) == (text, None)


@given(st.text(alphabet="0123456789/. outfen,stars-", max_size=40))
def test_what_is_left_states_nothing(text):
    """Catches a text from which one rating was taken and another left, numbers beyond the scale, and a text changed
    though it states nothing.
    """
    left, rating = take_out_rating(text)
    if rating is None:
        assert left == text
    else:
        assert 0 <= rating <= 10 and len(left) < len(text)
