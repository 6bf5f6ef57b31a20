"""EngineSpec -> a running `Generator`; the one place that chooses an engine class.

Invariant: a merged model exists on disk only while it is being loaded.
"""

import tempfile
from dataclasses import replace

from semievol_ray.engines.base import EngineSpec, Generator


def open_generator(spec: EngineSpec) -> Generator:
    """Start the engine of a spec; takes seconds to minutes. Adapters to merge are merged first."""
    if spec.merged is None or spec.kind == "scripted":
        return _open(spec)
    from semievol_ray.engines.adapters import merge

    with tempfile.TemporaryDirectory(prefix="semievol-merged-") as folder:
        merge(spec.model_path, spec.merged, spec.dtype, folder)
        return _open(replace(spec, model_path=folder))


def _open(spec: EngineSpec) -> Generator:
    match spec.kind:
        case "vllm":
            from semievol_ray.engines.vllm import VllmGenerator

            return VllmGenerator(spec)
        case "transformers":
            from semievol_ray.engines.transformers import TransformersGenerator

            return TransformersGenerator(spec)
        case "scripted":
            from semievol_ray.engines.scripted import ScriptedGenerator

            return ScriptedGenerator(spec)
        case "openai":
            from semievol_ray.engines.openai import OpenAIGenerator

            return OpenAIGenerator(spec)
