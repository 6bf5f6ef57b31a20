"""`semievol study`: variants x seeds around one configuration, on one Ray, what they have in common made once.

Invariant: a variant that cannot run says why and the others go on; the same command, started again, makes what is
missing.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from semievol_ray import __version__, storage, tables
from semievol_ray.driver import terminated_as_interrupt
from semievol_ray.errors import (
    ConfigError,
    DriftError,
    NothingAcceptedError,
    RunInUseError,
    RunStopped,
    SemievolError,
    StorageError,
)
from semievol_ray.progress import Progress
from semievol_ray.report import PAGE, write_report
from semievol_ray.stages.cluster import connected
from semievol_ray.study.cell import Cell, cells_of, is_made, last_evaluated, make
from semievol_ray.study.file import Study, load
from semievol_ray.study.page import as_html
from semievol_ray.study.result import read_result, step_seconds
from semievol_ray.study.table import Outcome, StudyTable, tabulate
from semievol_ray.study.text import as_csv, as_markdown, render


def run_study(
    path: str, runs: str | None = None, seeds: Sequence[int] | None = None, progress: Progress | None = None
) -> str:
    """Do what is left of a study in the folder `runs` (runs/<name>), write study.{csv,md,html} there; the table.

    seeds: those to do now, all when None. Raises ConfigError for the file or a seed it lacks, DriftError when a run
    there was made with other settings, RunInUseError and StorageError; what else stops a variant becomes its line in
    the table. RunStopped when no variant could run.
    """
    study = load(path)
    listed = _listed(study, path, seeds)
    folder = storage.absolute(runs or f"runs/{study.name}")
    if storage.is_remote(folder):
        raise ConfigError(f"{folder}: the runs of a study share steps by links on one disk. Name a local folder.")
    storage.make_folder(folder)
    cells = list(cells_of(study, listed, folder))
    outcomes: list[Outcome] = []
    made: dict[tuple[str, int], float] = {}
    with ExitStack() as closing, terminated_as_interrupt():
        for cell in cells:
            if is_new := not is_made(cell):  # one Ray for all: a second call finds it there
                closing.enter_context(connected(cell.config.speed.address, f"{folder}/ray.log"))
            began = time.monotonic()
            outcomes.append(_outcome(cell))
            _report(cell, outcomes[-1], is_new)
            made[cell.variant.name, cell.seed] = sum(step_seconds(cell.root).values())
            (progress or Progress()).say(_line(outcomes, cells, made, time.monotonic() - began))
            write(tabulate(study, listed, outcomes), folder)
    if all(outcome.result is None for outcome in outcomes):
        reasons = dict.fromkeys(f"  {o.variant}: {o.reason}" for o in outcomes)
        raise RunStopped("\n".join([f"no variant of {path} could run:", *reasons]))
    return f"{render(tabulate(study, listed, outcomes))}\n\nstudy: {folder}/study.html"


def _listed(study: Study, path: str, seeds: Sequence[int] | None) -> tuple[int, ...]:
    """The seeds to do. A seed the file lacks is refused: what a table may hold is written down before it is made."""
    if unknown := [seed for seed in seeds or () if seed not in study.seeds]:
        raise ConfigError(
            f"seed {unknown[0]} is not in {path}, whose seeds are {', '.join(map(str, study.seeds))}; add it there"
        )
    return tuple(seeds or study.seeds)


def write(found: StudyTable, folder: str) -> None:
    """Put the table into the study's folder as csv, markdown and HTML."""
    storage.write(f"{folder}/study.csv", as_csv(found).encode())
    storage.write(f"{folder}/study.md", as_markdown(found).encode())
    storage.write(f"{folder}/study.html", as_html(found, folder, f"semievol-ray {__version__}").encode())


def seconds_left(cells: Sequence[Cell], made: Mapping[tuple[str, int], float]) -> float:
    """Seconds that the cells not in `made` will take.

    made: (variant, seed) -> seconds of the steps that its own run made, at least one. A variant takes what it took with
    other seeds; one not seen yet takes the mean of those seen.
    """
    took: dict[str, list[float]] = {}
    for (variant, _), seconds in made.items():
        took.setdefault(variant, []).append(seconds)
    means = {variant: sum(values) / len(values) for variant, values in took.items()}
    unseen = sum(means.values()) / len(means)
    return sum(means.get(c.variant.name, unseen) for c in cells if (c.variant.name, c.seed) not in made)


def _outcome(cell: Cell) -> Outcome:
    """Make one cell, or say why it cannot be. Raises what concerns the whole study: drift, storage, another driver."""
    name, reason = cell.variant.name, None
    try:
        evaluated: str | None = make(cell)
    except DriftError as error:
        raise DriftError(f"{name}, seed {cell.seed}: {error}".replace("--run DIR", "--runs DIR")) from error
    except (RunInUseError, StorageError):
        raise
    except NothingAcceptedError as error:
        evaluated, reason = last_evaluated(cell.root), str(error)
    except SemievolError as error:
        return Outcome(name, cell.seed, None, str(error))
    result = read_result(name, cell.seed, cell.root, evaluated) if evaluated else None
    return Outcome(name, cell.seed, result, reason)


def _report(cell: Cell, outcome: Outcome, is_new: bool) -> None:
    """Write the page of a run that has a result and no page yet."""
    if outcome.result and (is_new or not storage.exists(f"{cell.root}/{PAGE}")):
        write_report(cell.root)


def _line(
    outcomes: Sequence[Outcome], cells: Sequence[Cell], made: Mapping[tuple[str, int], float], took: float
) -> str:
    """How the last cell ended, how far the study is, and how long the rest will take."""
    last = outcomes[-1]
    found = tables.percent(last.result.accuracy) if last.result else "failed"
    why = f" ({last.reason.splitlines()[0]})" if last.reason else ""
    rest = "" if len(outcomes) == len(cells) else f", about {tables.seconds(seconds_left(cells, made))} left"
    done = f"{len(outcomes)} of {len(cells)} done{rest}"
    return f"{last.variant} seed {last.seed}: {found}{why}, {tables.seconds(took)}; {done}"
