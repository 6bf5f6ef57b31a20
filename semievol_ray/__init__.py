"""SemiEvol on Ray: semi-supervised fine-tuning of language models at scale."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semievol_ray.api import OpenedRun, open_run, run
    from semievol_ray.config import RunConfig

__version__ = "0.1.0"
__all__ = ["OpenedRun", "RunConfig", "__version__", "open_run", "run"]
_HOMES = {"RunConfig": "config", "OpenedRun": "api", "open_run": "api", "run": "api"}


def __getattr__(name: str) -> Any:
    """What the package offers is imported when it is first asked for, so that `import semievol_ray` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
