"""One cell of a study: one variant with one seed, in a run directory of its own that shares steps with the others.

Invariant: a cell is a run; whatever stops it half-way, making it again goes on.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray import driver, storage
from semievol_ray.checks import check_method, check_models
from semievol_ray.config import RunConfig
from semievol_ray.errors import RunStopped
from semievol_ray.extras import check_extras
from semievol_ray.progress import Progress
from semievol_ray.runs import Step, read_manifest, read_steps
from semievol_ray.servable import check_servable
from semievol_ray.study.file import Study, Variant
from semievol_ray.study.references import EVALUATIONS, Course, reference
from semievol_ray.study.variants import Making

MATCHES = "semievol"
"""The variant whose last fine-tuning sft_matched takes its number of optimizer steps from."""


@dataclass(frozen=True)
class Cell:
    """One variant with one seed; `folder` is the study's."""

    variant: Variant
    seed: int
    folder: str

    @property
    def root(self) -> str:
        """The run directory."""
        return f"{self.folder}/{self.variant.name}/seed-{self.seed}"

    @property
    def config(self) -> RunConfig:
        """The variant's configuration with the seed."""
        name = f"{self.variant.name}-{self.seed}"
        return self.variant.config.model_copy(update={"seed": self.seed, "name": name})


def cells_of(study: Study, seeds: Sequence[int], folder: str) -> Iterator[Cell]:
    """All cells in the order in which they are made: seed by seed, cheap variants first, sft_matched after semievol."""
    order = list(Making)
    for seed in seeds:
        for variant in sorted(study.variants, key=lambda v: order.index(v.making)):
            yield Cell(variant, seed, folder)


def is_made(cell: Cell) -> bool:
    """Whether a cell has ended, so that going over it again starts no engine."""
    if not storage.exists(f"{cell.root}/manifest.json"):
        return False
    if cell.variant.making is Making.ROUNDS:
        return "final" in read_manifest(cell.root)
    return _committed(cell.root, EVALUATIONS[cell.variant.making]) is not None


def make(cell: Cell) -> str:
    """Do what is left of a cell; the name of its evaluation step. Raises what a run raises."""
    config, making, share = cell.config, cell.variant.making, f"{cell.folder}/shared"
    progress = Progress(quiet=not sys.stderr.isatty())
    if making is Making.ROUNDS:
        finished = driver.run(config, cell.root, progress, share=share)
        return f"rounds/{finished.round:04d}/evaluate"
    check_models(config)
    check_method(config)
    check_extras(config)
    check_servable(config)
    course = _last_course(f"{cell.folder}/{MATCHES}/seed-{cell.seed}") if making is Making.MATCHED else None
    return reference(making, config, cell.root, progress, share=share, course=course).name


def last_evaluated(root: str) -> str | None:
    """The evaluation of the last round that ended before a guard stopped the run; None when that was the first."""
    done = [name for name, record in read_steps(root) if record.get("committed")]
    rounds = sorted(name for name in done if name.startswith("rounds/") and name.endswith("/evaluate"))
    return rounds[-1] if rounds and rounds[-1] != "rounds/0000/evaluate" else None


def _last_course(root: str) -> Course:
    """That of a finished run's last fine-tuning. Raises RunStopped where it is not known."""
    final = read_manifest(root).get("final") if storage.exists(f"{root}/manifest.json") else None
    folder = f"rounds/{final['round']:04d}" if final else ""
    trained, examples = (_committed(root, f"{folder}/{name}") if final else None for name in ("train", "examples"))
    if not trained or not examples or "num_steps" not in trained["metrics"]:
        raise RunStopped(f"with this seed {MATCHES} has no last fine-tuning whose number of steps could be matched.")
    return Course(int(trained["metrics"]["num_steps"]), int(examples["num_rows"]))


def _committed(root: str, name: str) -> dict[str, Any] | None:
    step = Step(f"{root}/{name}", name, ())
    return step.committed() if storage.exists(f"{step.path}/step.json") else None
