"""POST /v1/label: one row in; label, confidence and verdict out."""

from typing import Any

import httpx
import pytest

from semievol_ray.core.identity import row_id
from semievol_ray.endpoint.models import Serving
from tests.endpoint.conftest import CERTIFICATE, KEY, TASK, WORDS

NUM_ASKED = 40


def label(url: str, row: Any, key: str = KEY) -> httpx.Response:
    return httpx.post(f"{url}/label", json=row, headers={"Authorization": f"Bearer {key}"})


def test_label_says_what_it_is_how_sure_and_whether_that_is_certified(url: str, serving: Serving) -> None:
    assert CERTIFICATE.tau is not None
    passed = 0
    for i in range(NUM_ASKED):
        question = f"thing {i} [{WORDS[i % 3]}]"
        found = label(url, {"question": question}).json()
        assert found["id"] == row_id(TASK.name, question, None)
        assert found["model"] == serving.labelling.model
        assert found["label"] in WORDS
        assert found["passes"] is (found["confidence"] <= CERTIFICATE.tau)
        assert found["why"]
        passed += found["passes"]
    assert 0 < passed < NUM_ASKED


def test_label_does_not_look_at_an_answer_in_the_row(url: str) -> None:
    row = {"question": "an oak [plant]"}
    assert label(url, {**row, "answer": "no such label"}).json() == label(url, row).json()


def test_label_of_a_question_too_long_has_no_label_and_says_why(url: str) -> None:
    found = label(url, {"question": "very " * 2000}).json()
    assert (found["label"], found["passes"]) == (None, False)
    assert "max_model_len" in found["why"]


@pytest.mark.parametrize("row", [{}, {"question": ""}, {"question": 7}, {"text": "an oak"}])
def test_label_of_a_row_without_a_question_is_a_bad_request(url: str, row: dict[str, Any]) -> None:
    reply = label(url, row)
    assert reply.status_code == 400
    assert "question" in reply.json()["error"]["message"]


def test_label_without_the_key_is_refused(url: str) -> None:
    assert label(url, {"question": "an oak [plant]"}, "sk-other").status_code == 401
