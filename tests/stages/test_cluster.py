import time
from typing import Any

import pytest

from semievol_ray.errors import DriftError, RunStopped, SemievolError, StorageError
from semievol_ray.stages.cluster import map_parts, raised_by_worker

OWN = """ray::MapWorker.submit() (pid=1)
  File "steps.py", line 65, in begin_attempt
OSError: [Errno 28] No space left on device

The above exception was the direct cause of the following exception:

  File "storage.py", line 215, in _translated
semievol_ray.errors.StorageError: cannot append to x: No space left on device. Free some space.

The above exception was the direct cause of the following exception:

ray.exceptions.UserCodeException: UDF failed to process a data block.
"""
LINES = "semievol_ray.errors.DriftError: made with other settings:\n  a: 1\n  b: 2\n\nThe above exception"
FOREIGN = 'ray::Map(f)()\n  File "x.py", in f\nValueError: three is no four\n\nray.exceptions.UserCodeException: no'


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (OWN, StorageError, "cannot append to x: No space left on device. Free some space."),
        (LINES, DriftError, "made with other settings:\n  a: 1\n  b: 2"),
        (FOREIGN, RunStopped, "a worker failed: ValueError: three is no four. Running the same command again"),
        ("the actor died unexpectedly\nmore", RunStopped, "a worker failed: the actor died unexpectedly."),
    ],
)
def test_error_in_the_text_of_a_ray_exception_is_raised_as_itself(
    text: str, kind: type[SemievolError], message: str
) -> None:
    found = raised_by_worker(text)

    assert type(found) is kind
    assert str(found).startswith(message)


@pytest.mark.usefixtures("small_ray")
def test_part_that_takes_longer_than_ray_datas_guard_allows_is_waited_for() -> None:
    import ray.data

    def slow(item: dict[str, Any]) -> dict[str, Any]:
        time.sleep(3)
        return item

    context = ray.data.DataContext.get_current()
    before, context.execution_no_progress_timeout_s = context.execution_no_progress_timeout_s, 1
    try:
        assert list(map_parts(slow, ["part-00000"])) == [{"part": "part-00000"}]
    finally:
        context.execution_no_progress_timeout_s = before
