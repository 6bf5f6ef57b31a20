"""What is tried again, for how long, and when not."""

import pytest

from semievol_ray.backoff import Backoff, retried


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)

    def backoff(self, total: float, share: float = 1.0) -> Backoff:
        """Waits of this share of the longest they may be."""
        return Backoff(total, 1.0, 8.0, lambda: self.now, self.sleep, lambda low, high: low + share * (high - low))


def _failing(times: int, error: Exception) -> "list[Exception]":
    return [error] * times


def _act(failures: "list[Exception]") -> str:
    if failures:
        raise failures.pop()
    return "done"


def test_retried_failures_of_a_moment_wait_longer_each_time_up_to_the_longest() -> None:
    time, failures = Time(), _failing(6, TimeoutError())
    assert retried(lambda: _act(failures), lambda _: True, time.backoff(100), "it") == "done"
    assert time.waits == [1, 2, 4, 8, 8, 8]


def test_retried_jitter_waits_for_a_random_share() -> None:
    time, failures = Time(), _failing(3, TimeoutError())
    retried(lambda: _act(failures), lambda _: True, time.backoff(100, share=0.25), "it")
    assert time.waits == [0.25, 0.5, 1]


def test_retried_for_ever_failing_gives_up_in_time_with_the_last_error() -> None:
    time, failures = Time(), _failing(1000, TimeoutError("still"))
    with pytest.raises(TimeoutError, match="still"):
        retried(lambda: _act(failures), lambda _: True, time.backoff(60), "it")
    assert 50 < time.now <= 60


def test_retried_lasting_failure_is_raised_at_once() -> None:
    time, failures = Time(), _failing(2, PermissionError())
    with pytest.raises(PermissionError):
        retried(lambda: _act(failures), lambda error: isinstance(error, TimeoutError), time.backoff(60), "it")
    assert time.waits == []
    assert len(failures) == 1
