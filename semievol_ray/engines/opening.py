"""EngineSpec -> a running `Generator`; the one place that chooses an engine class.

Invariant: a merged model exists on disk only while it is being loaded, once a machine; its path is that of the one
before it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from semievol_ray import folders
from semievol_ray.engines.base import EngineSpec, Generator
from semievol_ray.engines.prefixes import Add, ignored
from semievol_ray.engines.references import local_weights
from semievol_ray.engines.slots import shared_slot, slot


def open_generator(spec: EngineSpec, beat: Callable[[], None] = lambda: None, on_prefixes: Add = ignored) -> Generator:
    """Start the engine of a spec; takes seconds to minutes. Adapters to merge are merged first, once a machine for
    engines that start together; a whole model that was fine-tuned stands in its base's place.

    `beat` is called as the engine computes, where it can tell: a sign of life between two answers. `on_prefixes` hears
    of the engine's prefix cache, where it has one.
    """
    spec = _brought_here(spec)
    if spec.merged is None or spec.kind == "scripted":
        return _open(spec, beat, on_prefixes)
    from semievol_ray.engines.adapters import adapter_digest, is_whole_model, merge

    if is_whole_model(spec.merged):
        with slot() as folder:
            model = Path(folder, "model")
            model.symlink_to(spec.merged, target_is_directory=True)
            return _open(replace(spec, model_path=str(model)), beat, on_prefixes)
    base, adapter = spec.model_path, spec.merged
    with shared_slot(
        f"{base}\n{adapter_digest(adapter)}\n{spec.dtype}", lambda folder: merge(base, adapter, spec.dtype, folder)
    ) as folder:
        return _open(replace(spec, model_path=folder), beat, on_prefixes)


def _brought_here(spec: EngineSpec) -> EngineSpec:
    """The spec with folders on this machine for those that it names in an object store."""
    return replace(
        spec,
        model_path=local_weights(spec.model_path),
        merged=spec.merged and folders.local_copy(spec.merged),
        adapters={name: folders.local_copy(path) for name, path in spec.adapters.items()},
    )


def _open(spec: EngineSpec, beat: Callable[[], None], on_prefixes: Add) -> Generator:
    match spec.kind:
        case "vllm":
            from semievol_ray.engines.vllm import VllmGenerator

            return VllmGenerator(spec, beat, on_prefixes)
        case "transformers":
            from semievol_ray.engines.transformers import TransformersGenerator

            return TransformersGenerator(spec, beat)
        case "scripted":
            from semievol_ray.engines.scripted import ScriptedGenerator

            return ScriptedGenerator(spec)
        case "openai":
            from semievol_ray.engines.openai import OpenAIGenerator

            return OpenAIGenerator(spec, beat)
