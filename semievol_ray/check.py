"""`semievol check`: what a configuration resolves to, whether its files and names stand, and which steps would run.

Invariant: nothing is written, nothing fetched, and neither ray nor torch nor vllm is imported.
"""

from itertools import islice

import yaml

from semievol_ray.config import RunConfig
from semievol_ray.methodconfig import slug

NUM_ROWS_READ = 20


def check(config: RunConfig) -> str:
    """The resolved configuration as YAML, the steps behind it as comments. Raises ConfigError, DataError and so on."""
    from semievol_ray.checks import check_method, check_models, check_training
    from semievol_ray.extras import check_extras
    from semievol_ray.servable import check_servable

    check_models(config)
    check_method(config)
    check_training(config)
    check_extras(config)
    check_servable(config)
    check_data(config)
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    listed = "\n".join(f"#   {step}" for step in planned_steps(config))
    return f"{resolved}\n# The first rows of every data file could be read. A run does these steps:\n{listed}"


def check_data(config: RunConfig) -> None:
    """Read the first NUM_ROWS_READ rows of each data file. Raises DataError naming file, line and column."""
    from semievol_ray.stages.reading import read_rows

    task, data = config.resolve_task(), config.data
    for source, needs_answer in ((data.labeled, True), (data.unlabeled, False), (data.test, True)):
        if source:
            list(islice(read_rows(source.path, task, needs_answer=needs_answer), NUM_ROWS_READ))


def planned_steps(config: RunConfig) -> list[str]:
    """Names of all steps of a run, in the order in which the driver ends them."""
    rounds, data = config.method.rounds.num, config.data
    splits = {
        "test": data.test, "labeled": True, "dev": data.dev, "dev_gold": data.dev, "validation": data.validation,
        "unlabeled": True, "gold": True,
    }  # fmt: skip
    names = [f"data/{split}" for split, there in splits.items() if there]
    names += [f"data/annotations-{i:04d}" for i in range(len(data.annotations))]
    names += ["data/near_duplicates"] * (data.near_duplicates.action != "off")
    names += ["rounds/0000/examples", *(["rounds/0000/train"] if config.method.warm_up else []), *_other_bases(config)]
    for number in range(1, rounds + 1):
        evaluated = ["base/evaluate"] * (number == 1) + [f"rounds/{number - 1:04d}/evaluate"] * (
            number > 1 or config.method.warm_up
        )
        names += _round_steps(config, number, evaluated if data.test else [])
    return names + [f"rounds/{rounds:04d}/evaluate"] * (data.test is not None)


def _round_steps(config: RunConfig, number: int, evaluated: list[str]) -> list[str]:
    """The steps of a round in order; those of the dev fold stand beside the pool's."""
    folder, method = f"rounds/{number:04d}", config.method
    anew = number == 1 or method.retrieval.pool != "labeled"
    folds = [folder, f"{folder}/dev"] if config.data.dev else [folder]
    embeds = number == 1 and method.rounds.num > 1 and method.retrieval.pool != "labeled"
    drafts = [f"drafts/{c.name}" for c in method.collaborators]
    names = [f"{folder}/shown"] * (number > 1 and anew)
    for fold in folds:
        leaves = method.rounds.reanswer == "rejected" or fold != folder  # a dev slice leaves when its round is over
        names += [f"{fold}/pool"] * (number > 1 and leaves)
        if anew and method.num_demonstrations > 0:
            names += [f"data/{'dev_' if fold.endswith('dev') else ''}embeddings"] * embeds + [f"{fold}/retrieve"]
    names += evaluated + [f"{fold}/{x}" for fold in folds for x in (*drafts, "justify")]
    names += [f"{fold}/select" for fold in folds] + [f"{folder}/examples", f"{folder}/train"]
    first = ["rounds/0000"] * (number == 1 and (method.warm_up or method.rounds.patience is not None))
    return names + [f"{of}/validation" for of in (*first, folder) if config.data.validation]


def _other_bases(config: RunConfig) -> list[str]:
    """The warm-ups of other bases than the student."""
    models = {c.model for c in config.method.collaborators if c.adapter == "warm" and c.model}
    return [f"bases/{slug(name)}/train" for name in sorted(models - {config.model})]
