"""`semievol check`: what a configuration resolves to, whether its files and names stand, and which steps would run.

Invariant: nothing is written, nothing fetched, and neither ray nor torch nor vllm is imported.
"""

from itertools import islice

import yaml

from semievol_ray.config import RunConfig

NUM_ROWS_READ = 20


def check(config: RunConfig) -> str:
    """The resolved configuration as YAML, the steps behind it as comments. Raises ConfigError, DataError and so on."""
    from semievol_ray.driver import check_models
    from semievol_ray.extras import check_extras

    check_models(config)
    check_extras(config)
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
    rounds = config.method.rounds
    with_test = config.data.test is not None
    names = [f"data/{split}" for split in ("test", "labeled", "unlabeled", "gold") if with_test or split != "test"]
    names += ["rounds/0000/examples", "rounds/0000/train"]
    for number in range(1, rounds + 1):
        evaluated = ["base/evaluate", "rounds/0000/evaluate"] if with_test and number == 1 else []
        names += _round_steps(config, f"rounds/{number:04d}", evaluated)
    return names + [f"rounds/{rounds:04d}/evaluate"] * with_test


def _round_steps(config: RunConfig, folder: str, evaluated: list[str]) -> list[str]:
    retrieve = [f"{folder}/retrieve"] * (config.method.num_demonstrations > 0)
    drafts = [f"{folder}/drafts/{c.name}" for c in config.method.collaborators]
    return [*retrieve, *evaluated, *drafts, *(f"{folder}/{x}" for x in ("justify", "select", "examples", "train"))]
