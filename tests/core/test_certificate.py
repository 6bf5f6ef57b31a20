"""What a certificate promises of a model's own answers, and what it says of one row."""

import numpy as np
import pytest

from semievol_ray.core.certificate import Certificate, certify, uncertified, verdict

TARGET, LEVEL, NUM_THRESHOLDS = 0.8, 0.9, 20


def drawn(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """H uniform in (0, 1), an answer right with probability 1 - H: the precision up to tau is 1 - tau / 2."""
    confidences = rng.random(num).astype(np.float32)
    return confidences, rng.random(num) < 1 - confidences


def test_certified_precision_falls_short_in_no_more_draws_than_the_level_allows() -> None:
    rng = np.random.default_rng(0)
    taus = [certify(*drawn(rng, 200), drawn(rng, 300)[0], TARGET, LEVEL, NUM_THRESHOLDS).tau for _ in range(300)]
    short = sum(tau is not None and 1 - tau / 2 < TARGET for tau in taus)
    assert short <= (1 - LEVEL) * 300
    assert sum(tau is not None for tau in taus) > 150


def test_certificate_of_too_few_rows_says_how_many_it_takes() -> None:
    found = certify(np.zeros(10, np.float32), np.ones(10, bool), np.zeros(5, np.float32), 0.9, 0.95, NUM_THRESHOLDS)
    assert found.tau is None
    assert "takes at least 29" in found.reason
    assert verdict(found, "plant", 0.0, None) == (False, found.reason)


def test_certificate_of_wrong_answers_has_no_threshold() -> None:
    found = certify(np.linspace(0, 1, 100, dtype=np.float32), np.zeros(100, bool),
                    np.linspace(0, 1, 50, dtype=np.float32), 0.9, 0.95, NUM_THRESHOLDS)  # fmt: skip
    assert found.tau is None
    assert found.num_dev == 100


def test_verdict_at_the_threshold_passes_and_above_it_does_not() -> None:
    tau = float(np.float32(0.1))
    found = Certificate(tau, 0.9, 0.95, 40, 40, 0.93, 80)
    assert verdict(found, "plant", 0.1, None)[0] is True
    passes, why = verdict(found, "plant", float(np.nextafter(np.float32(tau), np.float32(1))), None)
    assert passes is False
    assert "above tau" in why
    assert "40 dev rows" in verdict(found, "plant", 0.05, None)[1]


@pytest.mark.parametrize("certificate", [uncertified("no dev fold"), Certificate(0.5, 0.9, 0.95, 40, 40, 0.93, 80)])
def test_verdict_of_a_row_without_an_answer_is_never_a_pass(certificate: Certificate) -> None:
    for label, error in ((None, None), (None, "too long"), ("plant", "too long")):
        passes, why = verdict(certificate, label, None, error)
        assert not passes
        assert (passes is None) is (certificate.target is None)
        assert ("too long" in why) is (error is not None)
