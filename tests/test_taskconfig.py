"""Tasks in YAML: every kind becomes its format, what contradicts itself is refused where it is written."""

from typing import Any

import pytest
from pydantic import ValidationError

from semievol_ray.core.answers import AnswerFormat, Choice, Free, Labels, Number, Span
from semievol_ray.taskconfig import TaskConfig


def described(**keys: Any) -> TaskConfig:
    return TaskConfig.model_validate({"name": "t", "instruction": "i", **keys})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"kind": "labels", "labels": ["a", "b"]}, Labels(("a", "b"))),
        ({"kind": "choice"}, Choice()),
        ({"kind": "number", "relative_tolerance": 0.01}, Number(0.01)),
        ({"kind": "span"}, Span()),
        ({"kind": "free"}, Free()),
        ({"kind": "free", "similarity": 0.8}, Free(0.8)),
    ],
)
def test_task_of_each_kind_has_its_format(keys: dict[str, Any], expected: AnswerFormat) -> None:
    assert described(**keys).task().format == expected


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"kind": "labels", "labels": ["a", "a"]}, "at least two different labels"),
        ({"kind": "choice", "labels": ["a", "b"]}, "labels belong to kind labels, not choice"),
        ({"kind": "span", "similarity": 0.5}, "similarity belongs to kind free, not span"),
        ({"kind": "free", "relative_tolerance": 0.5}, "relative_tolerance belongs to kind number, not free"),
        ({"kind": "free", "similarity": 1.5}, "less than or equal to 1"),
        ({"kind": "number", "answer_template": "no place"}, "lacks {answer}"),
        ({"kind": "span", "answer_template": "I say {answer}"}, "in which the task reads 'I say 7'"),
        ({"kind": "labels", "labels": ["a", "A"]}, "differ in more than case"),
        ({"kind": "number", "parser": {"pattern": "x("}}, "not a regular expression"),
        ({"kind": "number", "parser": {"pattern": "[0-9]+"}}, "has no group"),
        ({"kind": "number", "parser": {"pattern": "((?:[0-9]+,?)+)"}}, "repeats a group that repeats itself"),
        ({"kind": "choice", "parser": {"pattern": "<(.)>"}}, "'A' is written 'Answer: A'.*reads nothing"),
    ],
)
def test_task_that_cannot_work_is_refused_with_the_reason(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        described(**keys)


def test_task_with_a_pattern_reads_its_last_match() -> None:
    task = described(
        kind="number", parser={"pattern": "<answer>(.*?)</answer>"}, answer_template="<answer>{answer}</answer>"
    ).task()
    text = "<answer>3</answer> no, <answer> $1,004 </answer>"
    parsed = task.parse(text, None)
    assert parsed is not None
    assert (parsed.answer, text[parsed.start : parsed.end]) == ("1004", " $1,004 ")
    assert task.parse("Answer: 3", None) is None
