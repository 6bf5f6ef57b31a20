"""What can be refused before anything is spent: names of no model, and settings that the task cannot have.

Invariant: nothing is read but the configuration and the names of local folders; each error names the key.
"""

from semievol_ray import storage
from semievol_ray.config import RunConfig
from semievol_ray.errors import ConfigError


def check_addresses(config: RunConfig) -> None:
    """Refuse addresses of stores that are not served, or with a password in them, before any is written down.

    Raises StorageError, which shows no password.
    """
    data = config.data
    sources = [data.labeled, data.unlabeled, data.test, *data.annotations]
    paths = [source.path for source in sources if source and not source.path.startswith("hf://")]
    for path in [*paths, config.model, config.method.embedder, config.method.warm_adapter or ""]:
        storage.check_address(path)
    for collaborator in config.method.collaborators:
        storage.check_address(collaborator.model or "")


def check_method(config: RunConfig) -> None:
    """Refuse what needs a closed answer set where the task has none, or vLLM. Raises ConfigError naming the key."""
    task = config.resolve_task()
    chosen = [c.name for c in config.method.collaborators if c.sampling.structured]
    if chosen and config.numerics.engine == "transformers":
        raise ConfigError(
            f"method.collaborators.{chosen[0]}.sampling.structured needs numerics.engine: vllm; transformers samples "
            "freely. Leave it out: answers that cannot be read are counted, and are no votes."
        )
    if task.is_closed:
        return
    wanted = {
        "method.confidence: answer_posterior": config.method.confidence == "answer_posterior",
        "method.select.quota": config.method.select.quota is not None,
        **{f"method.collaborators.{name}.sampling.structured": True for name in chosen},
    }
    for key, asked in wanted.items():
        if asked:
            raise ConfigError(
                f"{key} needs a closed set of answers (choice or labels); those of task {task.name} are of kind "
                f"{task.format.kind}. Leave it out, or use another estimator such as scored_nll."
            )


def check_models(config: RunConfig) -> None:
    """Refuse names that can be no model before anything is spent. Raises ConfigError naming the key."""
    from semievol_ray.engines.models import model_known
    from semievol_ray.engines.packaged import PACKAGED

    if config.numerics.engine == "scripted":
        return
    named = {"model": config.model, "method.embedder": config.method.embedder}
    own = [c for c in config.method.collaborators if c.model and not c.endpoint]
    named |= {f"method.collaborators.{c.name}.model": str(c.model) for c in own}
    for key, name in named.items():
        if name != "hash" and not model_known(name):
            raise ConfigError(
                f"{key}: no model {name!r} is known. Give a folder with a config.json, a hub name such as "
                f"org/name, or a packaged model: {', '.join(PACKAGED)}."
            )


def check_training(config: RunConfig) -> None:
    """Refuse a DeepSpeed JSON that cannot be read, or says something else than the configuration.

    Where the dtype depends on the device, only what conflicts in each is refused. Raises ConfigError with both values.
    """
    from semievol_ray.engines.deepspeedconfig import own_settings, refuse_conflicts

    if config.speed.deepspeed is None:
        return
    own, chosen = own_settings(config.speed.deepspeed), config.numerics.train_dtype
    refused: list[ConfigError] = []
    dtypes = ("bfloat16", "float32") if chosen == "auto" else (chosen,)
    for dtype in dtypes:
        try:
            refuse_conflicts(own, config.train, config.speed, dtype)
        except ConfigError as error:
            refused.append(error)
    if len(refused) == len(dtypes):
        raise refused[-1]
