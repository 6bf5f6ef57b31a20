"""Whether Ray would make the environments that steps ask for.

Invariant: nothing is made here, on no node; Ray's own reading of them is asked.
"""

from collections.abc import Iterator
from importlib.util import find_spec

from semievol_ray.config import SpeedConfig


def runtime_env_mistakes(speed: SpeedConfig) -> Iterator[str]:
    """What Ray finds wrong with each environment, and in which setting."""
    own = {name: env for name, env in speed.runtime_env.model_dump().items() if env}
    if not own or find_spec("ray") is None:  # the doctor tells of that
        return
    from ray._private.utils import parse_runtime_env_for_task_or_actor

    for name, env in own.items():
        try:
            parse_runtime_env_for_task_or_actor(env)
        except (TypeError, ValueError) as error:
            yield f"speed.runtime_env.{name}: {error}"
