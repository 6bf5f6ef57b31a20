"""Which optional packages a run needs, looked up before anything is spent and without importing one.

Invariant: what is missing is told in one sentence with the pip line that brings it.
"""

from importlib.util import find_spec

from semievol_ray.config import RunConfig
from semievol_ray.errors import MissingExtraError

_SERVING, _TRAINING = ("torch", "transformers", "peft"), ("accelerate", "deepspeed")


def check_extras(config: RunConfig) -> None:
    """Raises MissingExtraError when a package that the run will import is not installed."""
    if missing := [name for name in needed(config) if find_spec(name) is None]:
        raise MissingExtraError(
            f"this run needs {', '.join(missing)}, not installed here: pip install 'semievol-ray[cpu]' "
            "(with an NVIDIA GPU: 'semievol-ray[cuda]')."
        )


def check_serving() -> None:
    """Raises MissingExtraError when a package that serving needs is not installed."""
    if find_spec("starlette") is None or find_spec("ray") is None:
        raise MissingExtraError("serving needs ray's Serve: pip install 'semievol-ray[cpu]' (or [cuda]).")


def needed(config: RunConfig, *, trains: bool = True) -> list[str]:
    """Names of the optional modules that a run imports, here or in its workers; or what only answers with its model."""
    names = ["ray"]
    if config.method.num_demonstrations:
        names += ["faiss"] + ["sentence_transformers"] * (config.method.embedder != "hash")
    if config.numerics.engine != "scripted":
        names += [*_SERVING, *(_TRAINING if trains else ()), config.numerics.engine]
    return list(dict.fromkeys(names))
