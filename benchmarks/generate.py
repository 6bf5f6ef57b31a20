"""Generation side by side: the product, raw vLLM, ray.data.llm, the authors' shape, transformers; on CPU and GPU.

`python -m benchmarks.generate [--quick] [--rows N] [--workloads W1,W2] [--arms ours,raw] [--model NAME] [--out FILE]`.
Every arm drafts four answers a row and justifies them, with the same prompts, sampling and engine settings.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.found import Found
from benchmarks.generate_child import ARMS
from benchmarks.generate_model import DUMMIES, shape_of
from benchmarks.generate_plan import Plan, load
from benchmarks.generate_results import Measure, add, rendered, verdicts
from benchmarks.generate_roofline import Device, Load, bound
from benchmarks.scale_watch import KINDS, Measured, measured, peak_sum_mib
from semievol_ray import configfile

CONFIG = Path(__file__).parent / "configs" / "wordnet.yaml"
CHILD = "benchmarks.generate_child"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every arm on every workload, print the tables, write the result file."""
    options = options_of(arguments)
    found, folder = Found(), Path(options.folder or tempfile.mkdtemp(prefix="generate-"))
    try:
        for workload in options.workloads.split(","):
            plan = prepared(options, workload, folder / workload)
            measures = {arm: _measure(options, arm, folder / workload) for arm in options.arms.split(",")}
            add(found, workload, plan, measures)
            if options.roofline and "ours" in measures:
                _roofline(found, options, workload, plan, measures["ours"], folder / workload)
            print(rendered(workload, ARMS, measures), "\n", flush=True)
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(verdicts(found)))
    shown = f"--rows {options.rows} --workloads {options.workloads} --arms {options.arms} --model {options.model}"
    command = f"python -m benchmarks.generate {'--quick' if options.quick else shown}"
    found.keep(options.out, "generate", command, notes=options.note)
    return 0


def prepared(options: argparse.Namespace, workload: str, folder: Path) -> Plan:
    """The workload's run up to its retrieval, and its plan; a folder that is given keeps them for the next call."""
    if not (folder / "plan").exists():
        settings = {
            "folder": str(folder), "workload": workload, "config": _config(options.config), "rows": options.rows,
            "model": options.model, "max_num_seqs": options.max_num_seqs, "gpu": options.gpu,
            "threads": options.threads, "embedder": options.embedder,
        }  # fmt: skip
        measured("prepare", settings, folder / "prepare", module=CHILD)
    plan: Plan = load(folder / "plan")
    return plan


def _measure(options: argparse.Namespace, arm: str, folder: Path) -> Measure:
    """One arm in a process of its own; ours works in a copy of the run."""
    work = folder / arm
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rows = min(options.transformers_rows, options.rows) if arm == "transformers" else options.rows
    settings: dict[str, Any] = {"plan": str(folder / "plan"), "out": str(work / "answers"), "rows": rows}
    if arm == "ours":
        shutil.copytree(folder / "run", work / "run")
        settings |= {"run": str(work / "run"), "rows": None}
    run = measured(arm, settings, work, module=CHILD)
    cpu = sum(run.cpu(kind, "all") for kind in KINDS)
    peak = peak_sum_mib(list(run.processes.values()))
    return Measure(load(work / "answers"), rows, run.wall("all"), _running(run), cpu, peak)


def _running(run: Measured) -> float | None:
    """Seconds in which engines were up and answered."""
    if "engines" in run.phases:
        return float(run.said("engines")["seconds"])
    names = [name for name in run.phases if name.split()[0] in ("answer", "reflect")]
    return sum(run.wall(name) for name in names) or None


def _roofline(
    found: Found, options: argparse.Namespace, workload: str, plan: Plan, ours: Measure, folder: Path
) -> None:
    """Tokens a second of ours, and the most that this device could give, with what bounds it."""
    settings = {"model": plan.model, "gpu": options.gpu, "threads": options.threads}
    said = measured("roofline", settings, folder / "roofline", module=CHILD).said("roofline")
    a, num = ours.answers, ours.num_rows * (len(plan.passes) + 1)
    cached = (a.found or 0) / num
    context = a.num_prompt_tokens / num
    asked = Load(context - min(cached, context), context, a.num_tokens / num)
    device = Device(said["bytes_per_second"], said["flops_per_second"])
    best = bound(shape_of(plan.model), asked, device, options.max_num_seqs, 2 if options.gpu else 4)
    seconds = (ours.running_seconds or ours.seconds) / num
    found.metrics |= {
        f"{workload} roofline: device GB/s": device.bytes_per_second / 1e9,
        f"{workload} roofline: device TFLOP/s": device.flops_per_second / 1e12,
        f"{workload} roofline: best generated tokens/s": asked.generated_tokens / best.seconds,
        f"{workload} roofline: our generated tokens/s, engines up": asked.generated_tokens / seconds,
        f"{workload} roofline: share of the bound reached": best.seconds / seconds,
    }
    print(
        f"{workload} roofline: at best {1 / best.seconds:,.2f} requests/s (prompt {best.prompt_seconds:.4f} s by "
        f"matmul, generation {best.generation_seconds:.4f} s by {best.generation_limit}); ours "
        f"{1 / seconds:,.2f}"
    )


def _config(path: str) -> Mapping[str, Any]:
    """Task, data and numerics of a configuration, with its paths made absolute."""
    tree: dict[str, Any] = configfile.load(path).model_dump(mode="json")
    return {key: tree[key] for key in ("task", "data", "numerics")}


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with what depends on the machine filled in."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="12 rows of W1, ours against raw vLLM: two minutes")
    parser.add_argument("--rows", type=int, help="rows of a workload (default: 200; 2000 on a GPU)")
    parser.add_argument("--transformers-rows", type=int, default=25, help="rows of that arm (default: 25)")
    parser.add_argument("--workloads", help="W1 four identical configurations, W2 the paper's four (default: both)")
    parser.add_argument("--arms", help=f"of {', '.join(ARMS)} (default: all)")
    parser.add_argument("--model", default="smollm2-135m-instruct", help=f"a model's name, or {', '.join(DUMMIES)}")
    parser.add_argument("--config", default=str(CONFIG), help="YAML whose task, data and max_model_len are taken")
    parser.add_argument("--embedder", default="all-minilm-l6-v2", help="for the demonstrations, or hash")
    parser.add_argument("--max-num-seqs", type=int, help="requests at once in every arm (default: 64; 256 on a GPU)")
    parser.add_argument("--roofline", action="store_true", help="measure the device and print the bound beside ours")
    parser.add_argument("--folder", help="where the runs lie, and stay (default: a temporary folder)")
    parser.add_argument("--note", default="", help="what else has to be known of these figures, kept with them")
    parser.add_argument("--out", help="write the figures to this file as JSON")
    options = parser.parse_args(arguments)
    options.gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    options.threads = len(os.sched_getaffinity(0))
    options.rows = options.rows or (12 if options.quick else 2000 if options.gpu else 200)
    options.workloads = options.workloads or ("W1" if options.quick else "W1,W2")
    options.arms = options.arms or ("ours,raw" if options.quick else ",".join(ARMS))
    options.max_num_seqs = options.max_num_seqs or (256 if options.gpu else 64)
    options.roofline = options.roofline or options.model in DUMMIES
    return options


if __name__ == "__main__":
    sys.exit(main())
