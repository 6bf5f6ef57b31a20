"""H, how unsure a model was of an answer, in nats: the mean negative log-probability of its tokens (the paper's eq. 6).

`scored_nll` is `mean_nll` of the canonical answer text's tokens, teacher-forced under M_warm after the
zero-demonstration prompt.

Invariant: H is a finite float32 value (held in a Python float) or None, never NaN; smaller is surer.
"""

import math
from collections.abc import Sequence

import numpy as np


def mean_nll(token_logprobs: Sequence[float]) -> float | None:
    """H = -(1/L) sum log P(token) over the L generated tokens, stop tokens already left out; None when L is 0.

    Log-probabilities are natural and raw (before temperature and masks). ValueError when one is not finite.
    """
    if not len(token_logprobs):
        return None
    finite = list(map(math.isfinite, token_logprobs))  # a few dozen floats: an array takes ten times as long
    if not all(finite):
        raise ValueError(f"token log-probability {finite.index(False)} is not finite")
    return float(np.float32(0.0 - math.fsum(token_logprobs) / len(token_logprobs)))


def answer_nll(
    token_logprobs: Sequence[float], token_spans: Sequence[tuple[int, int]], start: int, end: int
) -> float | None:
    """H over the tokens whose characters [s, e) share at least one with the answer's [start, end); None without any.

    The constant "Answer:" before a one-letter answer would otherwise dilute it.
    """
    if len(token_logprobs) != len(token_spans):
        raise ValueError(f"{len(token_logprobs)} log-probabilities for {len(token_spans)} token spans")
    pairs = zip(token_logprobs, token_spans, strict=True)
    return mean_nll([logprob for logprob, (s, e) in pairs if max(s, start) < min(e, end)])


def answer_posterior(logprobs_by_candidate: Sequence[float], kept: int) -> float:
    """H = -log(P(kept) / sum P(candidate)): the kept answer's probability among the closed set's canonical texts.

    Takes each candidate text's total log-probability in nats. ValueError when one is not finite, or there is no `kept`.
    """
    values_C = np.asarray(logprobs_by_candidate, dtype=np.float64)
    if not 0 <= kept < values_C.size:
        raise ValueError(f"there is no candidate {kept} among {values_C.size}")
    if not np.isfinite(values_C).all():
        raise ValueError(f"log-probability of candidate {int(np.argmin(np.isfinite(values_C)))} is not finite")
    ahead_C = values_C - values_C[kept]
    largest = ahead_C.max()  # at least 0: the kept candidate's own
    return float(np.float32(largest + np.log(np.exp(ahead_C - largest).sum())))
