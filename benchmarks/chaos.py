"""Chaos: runs on real Ray clusters of this machine whose actors, nodes, drivers and head are killed at random moments.

`python -m benchmarks.chaos --runs N --seed S [--engine scripted|vllm] [--quick] [--out FILE]`. Each run's end is held
against an undisturbed run's, file for file (vllm: row for row). Recorded runs are skipped, so the command can go on.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.chaos_cluster import Cluster
from benchmarks.chaos_data import Engine, scripted_twin, write_configs
from benchmarks.chaos_plan import ABOUT, Plan, plan, quick_plans
from benchmarks.chaos_processes import adopt_orphans
from benchmarks.chaos_results import add, is_recorded, recorded, render
from benchmarks.chaos_run import Arm, Outcome, described, disturbed, undisturbed
from benchmarks.environment import commit

RESULTS = Path(__file__).parent / "results" / "chaos-cpu.json"
RUNS_PER_CLUSTER = 10
LIMIT_SECONDS = {"scripted": 300.0, "vllm": 1800.0}
DELAY_SECONDS = {"scripted": 0.5, "vllm": 10.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the runs that are not recorded yet; 0 when nothing was wrong with any of this call's."""
    options = _options(arguments)
    adopt_orphans()
    out = options.out or (None if options.quick else RESULTS)
    runs = recorded(out) if out else []
    plans = quick_plans(options.seed) if options.quick else [plan(options.seed, n) for n in range(options.runs)]
    left = [p for p in plans if not is_recorded(runs, engine=options.engine, seed=p.seed, number=p.number)]
    command = f"python -m benchmarks.chaos --runs {options.runs} --seed {options.seed} --engine {options.engine}"
    num_wrong = 0
    with ExitStack() as closing:
        work = options.work or Path(tempfile.mkdtemp(prefix="chaos-"))
        for each, outcome in _done(closing, left, options.engine, work):
            run = {"engine": options.engine, "commit": commit(), **described(each, outcome)}
            num_wrong += not outcome.is_good
            print(_line(run, outcome), flush=True)
            runs.append(run)
            if out:
                add(out, command, run)
    found = recorded(out) if out else runs
    print(render(found) if found else "nothing was run")
    if num_wrong:
        print(f"{num_wrong} runs were not as they should be; what is left of them is in {work}")
    elif not options.work:
        shutil.rmtree(work, ignore_errors=True)
    return int(num_wrong > 0)


def _done(closing: ExitStack, plans: Sequence[Plan], engine: Engine, work: Path) -> Iterator[tuple[Plan, Outcome]]:
    """Each plan with what became of it; a cluster serves several runs, and a new one follows after a failure."""
    if not plans:
        return
    cluster = Cluster()
    closing.callback(cluster.close)
    cluster.start()
    arms = _arms(cluster, engine, work)
    since = 0
    for each in plans:
        if since == RUNS_PER_CLUSTER:
            cluster.close()
            cluster.start()
            since = 0
        outcome = disturbed(cluster, arms[each.variant % len(arms)], each, work / f"{engine}-{each.seed}-{each.number}")
        since = since + 1 if outcome.is_good else RUNS_PER_CLUSTER
        yield each, outcome


def _arms(cluster: Cluster, engine: Engine, work: Path) -> list[Arm]:
    """The configurations of an engine, each with its undisturbed run; a real engine's is the scripted twin's."""
    arms = []
    for config in write_configs(work / "configs", engine):
        folder = work / f"undisturbed-{config.stem}"
        shutil.rmtree(folder, ignore_errors=True)
        expected = undisturbed(cluster, scripted_twin(config), folder, LIMIT_SECONDS["scripted"])
        arms.append(Arm(config, expected, engine == "scripted", LIMIT_SECONDS[engine], DELAY_SECONDS[engine]))
    return arms


def _line(record: dict[str, object], outcome: Outcome) -> str:
    verdict = "good" if outcome.is_good else f"WRONG {outcome.found} {outcome.wrong[:300]}"
    extra = f" reruns {outcome.reruns} left over {outcome.left_over} hang {outcome.hang}"
    return f"run {record['number']}: {', '.join(outcome.kinds) or 'nothing met'}; {outcome.seconds:g} s; {verdict}" + (
        "" if outcome.is_good else extra
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    kinds = "\n".join(f"  {kind:<10} {about}" for kind, about in ABOUT.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=f"{(__doc__ or '').splitlines()[0]}\n\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=20, help="how many runs of this seed there shall be (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (default: 0)")
    parser.add_argument("--engine", choices=("scripted", "vllm"), default="scripted")
    parser.add_argument("--quick", action="store_true", help="two runs that meet every kind once, recorded nowhere")
    parser.add_argument("--out", type=Path, help="results file to add to (default: the committed one)")
    parser.add_argument("--work", type=Path, help="folder of the runs (default: a temporary one)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
