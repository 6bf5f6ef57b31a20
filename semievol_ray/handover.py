"""Which model of a run is asked after it: a round's fine-tuned adapter, on the very base that it was trained on.

Invariant: only a committed fine-tuning is handed over, and never on other base weights than its own.
"""

from semievol_ray.config import ReplicaRange, RunConfig
from semievol_ray.configfile import parse
from semievol_ray.errors import DriftError, UserError
from semievol_ray.runs import Step, read_manifest, read_steps
from semievol_ray.stages.context import Context


def config_of(root: str) -> RunConfig:
    """The configuration that a run was made with. Raises UserError when the folder is no run."""
    return parse(read_manifest(root)["config"], f"{root}/manifest.json")


def reopened(
    root: str, address: str | None, replicas: tuple[int, int] | None = None, *, fits: bool = False
) -> RunConfig:
    """The configuration of a run that is used after its end, on the Ray cluster at `address`, with `replicas` engines.

    The cluster that the run was made on may be no more, so that its own address is no default. replicas: the fewest and
    the most; the run's own number where None, or with `fits` as many as the cluster has room for.
    """
    config, changed = config_of(root), dict[str, object](address=address)
    if replicas:
        changed["num_replicas"] = ReplicaRange(min=replicas[0], max=replicas[1])
    elif fits:
        changed["num_replicas"] = "auto"
    return config.model_copy(update={"speed": config.speed.model_copy(update=changed)})


def final_round(root: str, config: RunConfig) -> int:
    """The round whose adapter the run handed over; that of its last round while the run has not ended."""
    return int(read_manifest(root).get("final", {}).get("round", config.method.rounds.num))


def trained(root: str, number: int) -> Step:
    """A round's committed fine-tuning. Raises UserError where there is none."""
    name = f"rounds/{number:04d}/train"
    done = {of for of, record in read_steps(root) if record.get("committed")}
    if name not in done:
        others = sorted(int(of.split("/")[1]) for of in done if of.startswith("rounds/") and of.endswith("/train"))
        if number in others or "final" not in read_manifest(root):
            raise unfinished(root, name)
        raise UserError(f"{root} has no model of round {number}; rounds with one: {', '.join(map(str, others))}.")
    return Step(f"{root}/{name}", name, ())


def trained_rounds(root: str) -> dict[int, Step]:
    """Every round with a committed fine-tuning, the warm-up being round 0, in order."""
    names = [name.split("/") for name, record in read_steps(root) if record.get("committed")]
    numbers = sorted(int(of[1]) for of in names if (of[0], of[-1], len(of)) == ("rounds", "train", 3))
    return {number: trained(root, number) for number in numbers}


def unfinished(root: str, step: str) -> UserError:
    """What a run that lacks a step is refused with."""
    return UserError(f"{root} is not finished: {step} has not ended. Do `semievol run` with its configuration first.")


def require_same_base(context: Context, step: Step) -> None:
    """Raises DriftError when the base model is no longer the one a fine-tuning began with."""
    then, now = step.record()["inputs"]["model"], context.model().digest
    if then != now:
        raise DriftError(
            f"model {context.config.model!r} is not the one the adapter in {step.path} was trained on: its weights "
            f"have digest {now[:12]} now and had {then[:12]} then. Put the old weights back where they were."
        )
