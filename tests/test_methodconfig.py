from typing import Any

import pytest
from pydantic import ValidationError

from semievol_ray.methodconfig import CollaboratorConfig, MethodConfig, slug

ENDPOINT = {"url": "http://127.0.0.1:8000/v1"}


def method(**settings: Any) -> MethodConfig:
    return MethodConfig.model_validate(settings)


def test_method_defaults_are_the_papers_four_collaborators() -> None:
    found = [(c.name, c.adapter, c.demonstrations) for c in MethodConfig().collaborators]

    assert found == [("base_1", "none", 1), ("base_3", "none", 3), ("warm_0", "warm", 0), ("warm_3", "warm", 3)]


def test_collaborators_without_names_get_distinct_ones() -> None:
    method = MethodConfig.model_validate({"collaborators": [{}, {}, {"adapter": "warm"}, {"name": "mine"}]})

    assert [c.name for c in method.collaborators] == ["base_0", "base_0_2", "warm_0", "mine"]


def test_num_demonstrations_is_the_most_any_collaborator_shows() -> None:
    method = MethodConfig.model_validate({"collaborators": [{"demonstrations": 2}, {"demonstrations": 0}]})

    assert method.num_demonstrations == 2


def test_collaborator_name_with_a_slash_is_refused() -> None:
    with pytest.raises(ValidationError):
        CollaboratorConfig.model_validate({"name": "a/b"})


def test_two_collaborators_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two collaborators are named 'mine'"):
        method(collaborators=[{"name": "mine"}, {"name": "mine"}])


def test_collaborator_without_a_name_gets_one_that_nobody_took() -> None:
    named = method(collaborators=[{"name": "base_0"}, {}, {"model": "m", "endpoint": ENDPOINT}]).collaborators

    assert [c.name for c in named] == ["base_0", "base_0_2", "api_0"]


def test_stop_strings_may_not_be_empty_and_none_are_as_if_nothing_was_said() -> None:
    with pytest.raises(ValidationError, match="stop string may not be empty"):
        CollaboratorConfig.model_validate({"sampling": {"stop": ["\n", ""]}})

    assert CollaboratorConfig.model_validate({"sampling": {"stop": []}}) == CollaboratorConfig()


def test_collaborator_warm_on_another_base_is_taken() -> None:
    found = method(collaborators=[{"model": "org/other", "adapter": "warm"}]).collaborators[0]

    assert (found.model, found.adapter) == ("org/other", "warm")


@pytest.mark.parametrize(
    ("collaborator", "told"),
    [
        ({"endpoint": ENDPOINT}, "needs model"),
        ({"endpoint": ENDPOINT, "model": "m", "adapter": "warm"}, "serves no adapter"),
        ({"endpoint": ENDPOINT, "model": "m", "sampling": {"structured": "choice"}}, "asked without it"),
        ({"endpoint": {"url": "127.0.0.1:8000"}, "model": "m"}, "url"),
        ({"endpoint": {**ENDPOINT, "api_key": "sk-1"}, "model": "m"}, "api_key"),
    ],
)
def test_endpoint_that_cannot_be_is_refused(collaborator: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        method(collaborators=[collaborator])


def test_rounds_may_be_a_bare_number() -> None:
    assert method(rounds=3).rounds == method(rounds={"num": 3}).rounds
    for wrong in (0, True, 1.5):
        with pytest.raises(ValidationError):
            method(rounds=wrong)


def test_select_without_a_rule_is_the_papers() -> None:
    assert method(select={"theta": 0.25}).select == method(select={"rule": "percentile", "theta": 0.25}).select
    with pytest.raises(ValidationError):
        method(select={"rule": "fdr", "theta": 0.25})


@pytest.mark.parametrize("confidence", ["mean_nll", "answer_nll"])
@pytest.mark.parametrize("when", ["split", "never"])
def test_confidence_that_reads_every_justification_needs_them_all(confidence: str, when: str) -> None:
    with pytest.raises(ValidationError, match="scored_nll"):
        method(confidence=confidence, justify={"when": when})
    assert method(confidence="scored_nll", justify={"when": when}).justify.when == when


def test_ceiling_belongs_to_the_percentile_rule() -> None:
    with pytest.raises(ValidationError, match="ceiling belongs to"):
        method(rounds={"num": 2, "threshold": "ceiling"}, select={"rule": "fdr"})


@pytest.mark.parametrize(
    ("name", "folder"),
    [("org/model-1.5", "org-model-1.5"), ("../up", "up"), ("/a b/c", "a-b-c"), (".hidden", "hidden")],
)
def test_slug_is_one_plain_folder_name(name: str, folder: str) -> None:
    assert slug(name) == folder
