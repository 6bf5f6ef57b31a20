"""The vote: groups, ties, entropy, unanimity; against a plain transcription of the rule."""

import math
from collections import Counter
from operator import eq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.consensus import Vote, shuffled, tally

ANSWERS = st.lists(st.sampled_from(["A", "B", "C", None]), max_size=8)


def transcribed(answers: list[str | None]) -> Vote:
    """The published rule with exact equality, by counting."""
    n, counts = len(answers), Counter(answer for answer in answers if answer is not None)
    masses = [count / n for count in counts.values()] + [1 / n for answer in answers if answer is None]
    entropy = -sum(p * math.log(p) for p in masses)
    ranked = counts.most_common()
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return Vote(None, 0.0, entropy, False)
    return Vote(ranked[0][0], ranked[0][1] / n, entropy, ranked[0][1] == n)


@given(ANSWERS)
def test_tally_of_any_answers_matches_the_transcription(answers: list[str | None]) -> None:
    vote, expected = tally(answers, eq), transcribed(answers)
    assert (vote.answer, vote.share, vote.unanimous) == (expected.answer, expected.share, expected.unanimous)
    assert vote.givers == tuple(
        i for i, answer in enumerate(answers) if vote.answer is not None and answer == vote.answer
    )
    assert vote.entropy == pytest.approx(expected.entropy, abs=1e-12)


def test_tally_unanimous_has_no_entropy() -> None:
    assert tally(["B", "B", "B"], eq) == Vote("B", 1.0, 0.0, True, (0, 1, 2))


def test_tally_one_unreadable_draft_is_split() -> None:
    vote = tally(["B", None, "B", "B"], eq)
    assert (vote.answer, vote.share, vote.unanimous) == ("B", 0.75, False)


def test_tally_unreadable_drafts_are_no_agreement() -> None:
    vote = tally([None, None, None, None], eq)
    assert (vote.answer, vote.share, vote.unanimous) == (None, 0.0, False)
    assert vote.entropy == pytest.approx(math.log(4))


def test_tally_plurality_tie_has_no_answer() -> None:
    vote = tally(["A", "B", "B", "A", "C"], eq)
    assert (vote.answer, vote.share) == (None, 0.0)


def test_tally_plurality_below_half_wins() -> None:
    assert tally(["A", "B", "A", "C", None], eq).answer == "A"


def test_tally_without_drafts_is_not_unanimous() -> None:
    assert tally([], eq) == Vote(None, 0.0, 0.0, False)


def test_tally_of_intransitive_equality_depends_on_collaborator_order() -> None:
    def near(a: str, b: str) -> bool:
        return abs(int(a) - int(b)) <= 1

    assert tally(["1", "2", "3"], near).answer == "1"
    assert tally(["2", "1", "3"], near) == Vote("2", 1.0, 0.0, True, (0, 1, 2))


@given(st.text(max_size=8), ANSWERS)
def test_shuffled_answers_keep_every_readable_one(row_id: str, answers: list[str | None]) -> None:
    order = shuffled(row_id, answers)
    assert Counter(order) == Counter(answer for answer in answers if answer is not None)
    assert order == shuffled(row_id, answers)


def test_shuffled_answers_put_each_collaborator_first_equally_often() -> None:
    firsts = Counter(shuffled(f"row {i}", ["A", "B", "C", "D"])[0] for i in range(4000))
    assert all(900 < firsts[answer] < 1100 for answer in "ABCD")
