"""The order and the content of messages."""

import pytest

from semievol_ray.core.prompts import (
    Demonstration,
    Message,
    justification_messages,
    lettered,
    question_messages,
    side_by_side,
)


def test_question_messages_show_demonstrations_in_the_order_given() -> None:
    shown = [Demonstration("near?", "Answer: A"), Demonstration("far?", "Answer: B")]
    assert question_messages("Be brief.", "this?", shown) == (
        Message("system", "Be brief."),
        Message("user", "near?"),
        Message("assistant", "Answer: A"),
        Message("user", "far?"),
        Message("assistant", "Answer: B"),
        Message("user", "this?"),
    )


def test_question_messages_without_instruction_have_no_system_turn() -> None:
    assert question_messages("", "this?", ()) == (Message("user", "this?"),)


def test_justification_messages_list_the_candidates_and_leave_the_question_as_it_was_taught() -> None:
    system, *turns = justification_messages("Be brief.", "this?", ["C", "A", "C"])
    assert system.role == "system"
    assert system.content.startswith("Be brief.")
    assert "C, A, C" in system.content
    assert tuple(turns) == question_messages("Be brief.", "this?", ())[1:]


def test_justification_messages_without_candidates_are_the_plain_question() -> None:
    assert justification_messages("Be brief.", "this?", []) == question_messages("Be brief.", "this?", ())


def test_rows_that_begin_with_the_same_demonstrations_stand_side_by_side_and_others_keep_their_order() -> None:
    a, b, c = (Demonstration(word, "Answer: A") for word in "abc")
    order = side_by_side([[b, a], [a, c], [b, c], [a, b], [], [a, c], []])
    assert sorted(order) == list(range(7))
    assert order == [4, 6, 3, 1, 5, 0, 2]


def test_lettered_options_are_one_a_line() -> None:
    assert lettered(["red", "blue"]) == "A. red\nB. blue"


def test_lettered_options_beyond_the_alphabet_raise() -> None:
    with pytest.raises(ValueError, match="27 options"):
        lettered([str(i) for i in range(27)])
