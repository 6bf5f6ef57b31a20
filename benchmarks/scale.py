"""What rows, parts and slots cost: a round at growing sizes, selection alone, actor pools, restarts.

`python -m benchmarks.scale [--quick] [--rows N] [--select-rows N] [--service-seconds S] [--only LETTERS] [--folder F]
[--out FILE]`: r a round at 10^4 rows, 10^5 .. up to --rows, with restarts; s selection; w a row's worker time; p pools.
"""

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks import scale_model, scale_restart, scale_round, scale_rows
from benchmarks.found import Found
from benchmarks.scale_watch import KINDS, Measured, measured

SLOTS = (8, 64, 256)
EFFICIENCY = {64: 0.95, 256: 0.90}
RAY_MS, WORKER_MS, SELECT_SECONDS, SELECT_MIB, NOOP_SECONDS = 20.0, 1.0, 60.0, 2048.0, 5.0
SELECT_ROWS, NOOP_ROWS = 10_000_000, 1_000_000
STEPS = ("ingest", "retrieve", "answer", "select")
FEWEST_FURTHER = 100
"""Fewer parts more than before tell nothing of what a part costs."""
FEWEST_PARTS = 500
"""Below this a session's start, a second or two, is more than its parts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, print the table, write the result file."""
    options = _options(arguments)
    found = Found()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="scale-"))
    try:
        for letter, measure in {"w": _rows, "s": _select, "r": _rounds, "p": _pools}.items():
            if letter in options.only:
                measure(found, folder, options)
                print("\n".join(found.lines()), "\n", flush=True)
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    if lines := scale_model.added(found.metrics):
        print("\n".join(lines))
    _keep(found, options)
    return 0


def _rows(found: Found, folder: Path, options: argparse.Namespace) -> None:
    """A row's worker time, with the scripted engine's bytes and with a real tokenizer where one is at hand."""
    num_rows = 512 if options.quick else 2048
    tokenizers = {"bytes": None} | ({"model": real} if (real := scale_rows.cached_tokenizer()) else {})
    for name, tokenizer in tokenizers.items():
        for phase, ms in scale_rows.milliseconds_a_row(f"{folder}/rows-{name}", num_rows, tokenizer).items():
            found.metrics[f"worker CPU ms a row, {phase} ({name})"] = ms
    found.at_most("worker CPU ms a row", WORKER_MS, found.metrics["worker CPU ms a row, pipeline (bytes)"])


def _select(found: Found, folder: Path, options: argparse.Namespace) -> None:
    """Selection alone: the decision of every row, its commit, and what is told of it afterwards."""
    num_rows = options.select_rows
    settings = {"folder": f"{folder}/select", "rows": num_rows, "rule": {}, "name": "select"}
    run = measured("select", settings, folder / "select")
    seconds = {phase: run.wall(phase) for phase in ("start", "cuts", "select", "commit", "audit")}
    found.metrics |= {f"select {num_rows:,} rows, {phase} seconds": value for phase, value in seconds.items()}
    found.metrics["select driver peak MiB"] = run.peak_mib("driver")
    found.metrics["select worker peak MiB"] = run.peak_mib("worker")
    for kind in ("driver", "worker", "ray"):
        spent = sum(run.cpu(kind, phase) for phase in ("cuts", "select", "commit", "audit"))
        found.metrics[f"select {kind} CPU seconds"] = spent
    decided = (seconds["cuts"] + seconds["select"] + seconds["commit"]) * SELECT_ROWS / num_rows
    name = f", {num_rows:,} rows"
    found.metrics["select seconds a row"] = decided / SELECT_ROWS
    if num_rows == SELECT_ROWS:  # of fewer rows the start of Ray's workers is most of it
        found.at_most("select seconds for 10 million rows", SELECT_SECONDS, decided)
    found.at_most(f"select driver MiB{name}", SELECT_MIB, run.peak_mib("driver"))
    found.at_most(f"select worker MiB{name}", SELECT_MIB, run.peak_mib("worker"))


def _rounds(found: Found, folder: Path, options: argparse.Namespace) -> None:
    """Rounds of growing size, what the largest costs by part, and its restarts."""
    sizes = [10**n for n in range(3 if options.quick else 4, 9) if 10**n < options.rows] + [options.rows]
    runs = {}
    for num_rows in sizes:
        runs[num_rows] = _round(found, folder / f"round-{num_rows}", num_rows)
        _keep(found, options)
    for before, after in pairwise(sizes):
        grown = math.log(after / before)
        for kind in KINDS:
            seconds = [_spent(runs[n], kind) for n in (before, after)]
            found.metrics[f"{kind} CPU grows as rows^x, {before:,} to {after:,}"] = (
                math.log(seconds[1] / seconds[0]) / grown
            )
        memory = (runs[after].peak_mib("driver") - runs[before].peak_mib("driver")) * 2**20 / (after - before)
        found.metrics[f"driver bytes a row, {before:,} to {after:,}"] = memory
        more = {n: runs[n].said("ingest")["parts"] * scale_model.NUM_SESSIONS for n in (before, after)}
        if more[after] - more[before] >= FEWEST_FURTHER:
            ms = 1000 * (_driving(runs[after]) - _driving(runs[before])) / (more[after] - more[before])
            found.metrics[f"driver and Ray CPU ms a further part, {before:,} to {after:,}"] = ms
    for num_rows in sizes[-2:]:
        ended = folder / f"round-{num_rows}"
        again = scale_restart.nothing_to_do(ended, {"folder": str(ended)}).wall("all")
        found.metrics[f"no-op restart seconds, {num_rows:,} rows"] = again
        if num_rows <= NOOP_ROWS:
            found.at_most(f"no-op restart seconds, {num_rows:,} rows", NOOP_SECONDS, again)
    _half_done(found, folder / "half", min(options.rows, 2_000 if options.quick else 100_000))


def _round(found: Found, folder: Path, num_rows: int) -> Measured:
    scale_round.write_inputs(str(folder), num_rows)
    run = measured("round", {"folder": str(folder)}, folder / "watched")
    parts, name = run.said("ingest")["parts"], f"{num_rows:,} rows"
    own = 1000 * _driving(run) / (parts * scale_model.NUM_SESSIONS)
    files = [path for path in (folder / "run").rglob("*") if path.is_file()]
    found.metrics |= {f"{name}, {phase} seconds": run.wall(phase) for phase in run.phases if phase != "open"}
    found.metrics |= {f"{name}, {phase} {kind} CPU seconds": run.cpu(kind, phase) for phase in STEPS for kind in KINDS}
    found.metrics |= {
        f"{name}, parts": parts,
        f"{name}, driver and Ray CPU ms a part": own,
        f"{name}, worker CPU ms a row (engine and tokens too)": run.cpu("worker", "answer") * 1000 / num_rows,
        f"{name}, driver peak MiB": run.peak_mib("driver"),
        f"{name}, worker peak MiB": run.peak_mib("worker"),
        **{f"{name}, {of} worker peak MiB": run.peak_mib("worker", of) for of in STEPS},
        f"{name}, files": len(files),
        f"{name}, bytes a row": sum(path.stat().st_size for path in files) / num_rows,
    }
    for step in sorted((folder / "run").rglob("step.json")):
        inside = sum(path.is_file() for path in step.parent.rglob("*"))
        found.metrics[f"{name}, files of {step.parent.relative_to(folder / 'run')}"] = inside
    if parts * scale_model.NUM_SESSIONS >= FEWEST_PARTS:
        found.at_most(f"driver and Ray Data ms a part, {name}", RAY_MS, own)
    return run


def _half_done(found: Found, folder: Path, num_rows: int) -> None:
    scale_round.write_inputs(str(folder), num_rows)
    part_rows = -(-num_rows // 64)
    killed = scale_restart.half_done(folder, -(-num_rows // part_rows), {"folder": str(folder), "part_rows": part_rows})
    found.metrics |= {f"restart at half, {name}": value for name, value in killed.items()}
    found.at_most("restart at half: committed parts made again", 0, killed["parts_changed_after"])


def _pools(found: Found, folder: Path, options: argparse.Namespace) -> None:
    """Pools of 8 slots an actor, at each size."""
    for slots in SLOTS[: 2 if options.quick else None]:
        settings = {
            "folder": f"{folder}/slots",
            "slots": slots,
            "parts_a_slot": 5 if options.quick else 20,
            "service_seconds": options.service_seconds,
        }
        run = measured("slots", settings, folder / f"slots-{slots}")
        for name, value in run.said("serve").items():
            found.metrics[f"{slots} slots, {name}"] = value
        found.metrics[f"{slots} slots, MiB an actor"] = run.peak_mib("worker")
        for kind in ("driver", "ray", "worker"):
            found.metrics[f"{slots} slots, {kind} CPU seconds"] = run.cpu(kind, "serve")
        if slots in EFFICIENCY:
            found.at_least(f"efficiency at {slots} slots", EFFICIENCY[slots], run.said("serve")["efficiency"])


def _driving(run: Measured) -> float:
    """Processor seconds of the driver and of Ray's own processes while actors answer."""
    return run.cpu("driver", "answer") + run.cpu("ray", "answer")


def _spent(run: Measured, kind: str) -> float:
    """Processor seconds of one kind of process in what grows with the rows."""
    return sum(run.cpu(kind, phase) for phase in STEPS)


def _keep(found: Found, options: argparse.Namespace) -> None:
    """Write what there is so far: the largest round takes an hour or more."""
    shown = f"--rows {options.rows} --select-rows {options.select_rows} --service-seconds {options.service_seconds:g}"
    command = f"python -m benchmarks.scale {'--quick' if options.quick else shown} --only {options.only}"
    found.keep(options.out, "scale", command)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the same on less, within two minutes on 2 cores")
    parser.add_argument("--rows", type=int, help="rows of the largest round (default: 1 million)")
    parser.add_argument("--select-rows", type=int, help="rows of selection alone (default: 10 million)")
    parser.add_argument("--service-seconds", type=float, help="mean seconds a request is served (default: 5)")
    parser.add_argument("--only", default="wsrp", help="w row, s selection, r rounds, p pools (default: all)")
    parser.add_argument("--folder", help="where the runs lie, and stay (default: a temporary folder)")
    parser.add_argument("--out", help="write the figures to this file as JSON")
    options = parser.parse_args(arguments)
    options.rows = options.rows or (4_000 if options.quick else 1_000_000)
    options.select_rows = options.select_rows or (200_000 if options.quick else SELECT_ROWS)
    options.service_seconds = options.service_seconds or (0.5 if options.quick else 5.0)
    return options


if __name__ == "__main__":
    sys.exit(main())
