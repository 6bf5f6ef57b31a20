"""Free texts that agree by the cosine of their vectors."""

import numpy as np
import pytest

from semievol_ray.core.answers import Free, canonical_gold
from semievol_ray.core.consensus import tally
from semievol_ray.core.similarity import equal_by, texts_of

VECTORS = {
    "It rained.": np.array([1.0, 0.0], dtype=np.float32),
    "There was rain.": np.array([0.8, 0.6], dtype=np.float32),
    "It was dry.": np.array([0.0, 1.0], dtype=np.float32),
}


@pytest.mark.parametrize(("similarity", "agree"), [(0.79, True), (0.81, False)])
def test_texts_agree_from_the_similarity_on(similarity: float, agree: bool) -> None:
    assert equal_by(Free(similarity), VECTORS)("It rained.", "There was rain.") is agree


def test_texts_that_match_need_no_vectors() -> None:
    assert equal_by(Free(0.9), {})("The end.", "end")
    assert not equal_by(Free(), {})("It rained.", "There was rain.")


def test_any_of_several_golds_may_be_the_similar_one() -> None:
    gold = canonical_gold(Free(0.7), ["It was dry.", "There was rain."], None)
    assert texts_of([gold, None, "It rained.", "It was dry."]) == ["It was dry.", "There was rain.", "It rained."]
    assert equal_by(Free(0.7), VECTORS)("It rained.", gold)


def test_votes_are_tallied_by_similarity() -> None:
    drafts = ["It was dry.", "It rained.", "There was rain.", None]
    vote = tally(drafts, equal_by(Free(0.7), VECTORS))
    assert (vote.answer, vote.share) == ("It rained.", 0.5)
