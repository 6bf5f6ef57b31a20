"""What is told of a served application that does not start."""

import pytest

from semievol_ray.errors import ClusterError, ModelError, RunStopped
from semievol_ray.stages.deployment import _require_none_running, failed_start

TOLD = """Failed to update the deployments ['semievol-small'].
The deployment failed to start 3 times in a row. See controller logs for details. Error:
ray::ServeReplica:small.initialize_and_get_metadata() (pid=1, ip=192.0.2.2)
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "opening.py", line 23, in open_generator
{last}
"""


def test_failed_start_tells_the_replicas_last_error_and_what_to_do() -> None:
    found = failed_start(TOLD.format(last="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert type(found) is RunStopped
    assert "CUDA out of memory" in str(found)
    assert "Traceback" not in str(found)
    assert "--replicas" in str(found)


def test_failed_start_by_an_error_of_our_own_is_that_error() -> None:
    found = failed_start(TOLD.format(last="semievol_ray.errors.ModelError: m lacks weights. Copy the folder again."))
    assert type(found) is ModelError
    assert str(found) == "m lacks weights. Copy the folder again."


def test_failed_start_without_any_error_tells_the_last_line() -> None:
    assert "no node has the resources" in str(failed_start("DEPLOYING\nno node has the resources"))


@pytest.mark.usefixtures("small_ray")
def test_serve_that_runs_without_an_application_is_left_alone() -> None:
    from ray import serve

    serve.start(proxy_location="Disabled")
    try:
        with pytest.raises(ClusterError, match=r"runs on this cluster already \(without an application\)"):
            _require_none_running()
    finally:
        serve.shutdown()
    _require_none_running()
