"""Whether the engines can serve what a configuration asks for: arguments, adapters, chat templates; before any starts.

Invariant: only small files are read; nothing is fetched, and no device is taken.
"""

from collections.abc import Mapping
from pathlib import Path

from semievol_ray.config import RunConfig
from semievol_ray.engines.adapters import LARGEST_RANK, adapter_settings, only_merged
from semievol_ray.engines.templates import has_chat_template
from semievol_ray.engines.vllmarguments import unknown_arguments, vllm_version
from semievol_ray.errors import ConfigError, ModelError


def check_servable(config: RunConfig) -> None:
    """Refuse what no engine of this configuration could serve. Raises ConfigError, or ModelError, naming the key."""
    if config.numerics.engine == "vllm":
        _check_arguments(config)
        if config.train.method == "lora":
            _check_rank("train.lora_r", config.train.lora_r, config)
        check_templates({name: name for name in _own_models(config) if (Path(name) / "config.json").is_file()})
    if config.method.warm_adapter:
        _check_adapter(config, config.method.warm_adapter)


def check_templates(folders: Mapping[str, str]) -> None:
    """Refuse models, name -> local folder, without a chat template. Raises ModelError."""
    for name, folder in folders.items():
        if has_chat_template(folder) is False:
            raise ModelError(
                f"{name}: its tokenizer has no chat template, so that no question can be put to it. Use an instruct "
                f"model, or put a chat_template.jinja into a copy of {folder} and name that folder."
            )


def _check_arguments(config: RunConfig) -> None:
    given = {"numerics": config.numerics.engine_kwargs, "speed": config.speed.engine_kwargs}
    if config.speed.engine_kwargs.get("distributed_executor_backend") == "ray":
        raise ConfigError(
            "speed.engine_kwargs.distributed_executor_backend: ray would reserve GPUs of its own beside those that the "
            "engine's actor holds, and wait for them for ever. Leave it out: an engine lies on one node, whose workers "
            "are processes (mp)."
        )
    for key, kwargs in given.items():
        for name, nearest in unknown_arguments(kwargs).items():
            hint = f" Did you mean {nearest}?" if nearest else " Leave it out."
            raise ConfigError(
                f"{key}.engine_kwargs.{name}: the vLLM that is installed here ({vllm_version()}) has no such engine "
                f"argument.{hint}"
            )


def _check_rank(key: str, rank: int, config: RunConfig) -> None:
    if config.numerics.adapter_serving == "dynamic" and rank > LARGEST_RANK:
        raise ConfigError(
            f"{key}: an adapter of rank {rank} exceeds vLLM's largest, {LARGEST_RANK}, and numerics.adapter_serving is "
            "dynamic. Use a smaller rank, or adapter_serving: merged, which knows no limit."
        )


def _own_models(config: RunConfig) -> list[str]:
    return [config.model, *(c.model for c in config.method.collaborators if c.model and not c.endpoint)]


def _check_adapter(config: RunConfig, path: str) -> None:
    settings = adapter_settings(path)
    if settings is None:  # the import tells what is wrong with the folder
        return
    if (wanting := only_merged(settings)) and config.numerics.adapter_serving == "dynamic":
        raise ConfigError(
            f"method.warm_adapter {path}: an adapter with {wanting} cannot be served with numerics.adapter_serving "
            "dynamic; use auto or merged."
        )
