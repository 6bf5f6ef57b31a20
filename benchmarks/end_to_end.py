"""What an accepted pseudo-label costs, by step: seconds and tokens, read from the facts of finished runs.

`python -m benchmarks.end_to_end [RUN ...] [--config FILE ...] [--quick] [--out FILE]`: of the runs given, or of one run
of each configuration (default: the demo's), which is done first. The warm-up is a step like others.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.found import Found
from semievol_ray import configfile, driver, tables
from semievol_ray.errors import SemievolError, UserError
from semievol_ray.reporting.facts import Facts, read_facts

CONFIG = Path(__file__).parent / "configs" / "wordnet.yaml"
QUICK = ("data.labeled.sample=8", "data.unlabeled.sample=24", "data.test.sample=16", "train.num_train_epochs=1")


@dataclass(frozen=True)
class Cost:
    """One run: what it accepted, and seconds and tokens (prompt and generated) by step.

    Steps that shared an engine have their seconds as its session, and their tokens each by itself.
    """

    name: str
    num_accepted: int
    seconds: Mapping[str, float]
    prompt_tokens: Mapping[str, int]
    tokens: Mapping[str, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the runs that are not given, print a table for each, write the result file."""
    options = _options(arguments)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="end-to-end-"))
    try:
        runs = options.runs or [_run(path, folder, quick=options.quick) for path in options.config]
        costs = [cost_of(read_facts(run)) for run in runs]
    except SemievolError as error:
        print(f"end_to_end: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n\n".join(map(rendered, costs)))
    shown = " ".join(f"--config {Path(path).name}" for path in options.config) if not options.runs else "RUN ..."
    found = Found({f"{cost.name} {name}": value for cost in costs for name, value in figures(cost).items()})
    found.keep(options.out, "end_to_end", f"python -m benchmarks.end_to_end {'--quick' if options.quick else shown}")
    return 0


def cost_of(facts: Facts) -> Cost:
    """What a run cost. Raises UserError for one that has accepted nothing."""
    accepted = sum(p.num_accepted for p in facts.summary.pseudo_labels)
    if not accepted:
        raise UserError(f"{facts.root}: no pseudo-label was accepted, so that none has a cost.")
    found = {name: facts.metrics(name) or {} for name in facts.steps}
    asked = {name: m for name, m in found.items() if "num_tokens" in m}
    return Cost(
        facts.name,
        accepted,
        facts.summary.seconds,
        {name: int(m["num_prompt_tokens"]) for name, m in asked.items()},
        {name: int(m["num_tokens"]) for name, m in asked.items()},
    )


def figures(cost: Cost) -> dict[str, float]:
    """The costs of one accepted pseudo-label, by step and together."""
    spent = {f"seconds, {step}": value for step, value in cost.seconds.items()}
    spent |= {f"prompt tokens, {step}": value for step, value in cost.prompt_tokens.items()}
    spent |= {f"generated tokens, {step}": value for step, value in cost.tokens.items()}
    spent |= {
        "seconds": sum(cost.seconds.values()),
        "prompt tokens": sum(cost.prompt_tokens.values()),
        "generated tokens": sum(cost.tokens.values()),
    }
    a_label = {f"{name} an accepted label": value / cost.num_accepted for name, value in spent.items()}
    return {"accepted": float(cost.num_accepted), **a_label}


def rendered(cost: Cost) -> str:
    """The table of one run."""
    steps = list(dict.fromkeys([*cost.seconds, *cost.tokens]))
    given = (cost.seconds, cost.prompt_tokens, cost.tokens)
    rows = [(step, *(_each(of, step, cost.num_accepted) for of in given)) for step in steps]
    rows.append(("together", *(f"{sum(of.values()) / cost.num_accepted:,.2f}" for of in given)))
    header = (f"{cost.name}: {cost.num_accepted} accepted, each", "seconds", "prompt tokens", "generated")
    return tables.table(header, rows)


def _each(of: Mapping[str, float], step: str, num: int) -> str:
    return f"{of[step] / num:,.2f}" if step in of else tables.ABSENT


def _run(config: str, folder: Path, *, quick: bool) -> str:
    root = str(folder / Path(config).stem)
    driver.run(configfile.load(config, QUICK if quick else ()), root)
    return root


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.end_to_end", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("runs", nargs="*", help="folders of finished runs (default: a run is done for each --config)")
    parser.add_argument("--config", action="append", help="a run's configuration (default: the demo's)")
    parser.add_argument("--quick", action="store_true", help="a run of few rows, within two minutes")
    parser.add_argument("--folder", help="where the runs lie, and stay (default: a temporary folder)")
    parser.add_argument("--out", help="write the figures to this file as JSON")
    options = parser.parse_args(arguments)
    options.config = options.config or [str(CONFIG)]
    return options


if __name__ == "__main__":
    sys.exit(main())
