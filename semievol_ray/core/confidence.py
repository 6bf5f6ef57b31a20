"""H, how unsure a model was of an answer: the mean negative log-probability of its tokens, in nats (the paper's eq. 6).

Invariant: H is a finite float32 value (held in a Python float) or None, never NaN; smaller is surer.
"""

from collections.abc import Sequence

import numpy as np


def mean_nll(token_logprobs: Sequence[float]) -> float | None:
    """H = -(1/L) sum log P(token) over the L generated tokens, stop tokens already left out; None when L is 0.

    Log-probabilities are natural and raw (before temperature and masks). ValueError when one is not finite.
    """
    values_L = np.asarray(token_logprobs, dtype=np.float64)
    if values_L.size == 0:
        return None
    if not np.isfinite(values_L).all():
        raise ValueError(f"token log-probability {int(np.argmin(np.isfinite(values_L)))} is not finite")
    return float(np.float32(0.0 - values_L.mean()))


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
