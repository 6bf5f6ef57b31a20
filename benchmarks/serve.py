"""Serving under load: every request answered though a replica is killed in the middle, and what that costs in latency.

`python -m benchmarks.serve [--quick] [--run DIR] [--requests N] [--concurrency N] [--out FILE]`: without --run a small
run of the scripted engine is made and served. Invariant: both loads, with and without the kill, meet the same replicas.
"""

import argparse
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.found import Found
from benchmarks.scale_data import pool_rows, write_pool_file
from benchmarks.serve_load import Load, Request, sent
from semievol_ray import RunConfig, run
from semievol_ray.endpoint.gate import key_digest
from semievol_ray.progress import Progress
from semievol_ray.serve import Served, ServeSettings, serve_run

NUM_REPLICAS, NUM_QUESTIONS = 2, 200
SERVICE_SECONDS, SEATS = 0.2, 32
"""Of the scripted engine: what a request takes, and how many are meant to be in a replica's hands."""
BACK_SECONDS = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, load, strike, print the table, write the result file."""
    options, found = _options(arguments), Found()
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        root, key = options.run or _scripted_run(Path(folder)), secrets.token_urlsafe(24)
        settings = ServeSettings(port=0, replicas=(NUM_REPLICAS, NUM_REPLICAS), key=key_digest(key))
        serve_run(root, settings, Progress(), lambda served: _measure(found, served, key, options))
    print("\n".join(found.lines()))
    load = f"--requests {options.requests} --concurrency {options.concurrency}{' --run DIR' if options.run else ''}"
    found.keep(options.out, "serve", f"python -m benchmarks.serve {load}")
    return 0 if all(target["met"] for target in found.targets.values()) else 1


def _measure(found: Found, served: Served, key: str, options: argparse.Namespace) -> None:
    questions = tuple(question for question, _ in pool_rows(NUM_QUESTIONS, "request"))
    model = served.serving.labelling.model
    _wait_for_replicas()
    sent(served.url, key, Load(options.concurrency, options.concurrency, model, questions))  # both replicas are warm
    load = Load(options.requests, options.concurrency, model, questions)
    calm = _told(found, "undisturbed", *sent(served.url, key, load))
    struck: list[tuple[str, float]] = []
    killed = _told(found, "a replica killed", *sent(served.url, key, load, lambda: struck.append(kill_replica())))
    _wait_for_replicas(without=struck[0][0])
    found.metrics["seconds from the kill until there are as many replicas again"] = time.monotonic() - struck[0][1]
    for name in ("p50", "p99"):
        found.metrics[f"{name} with a kill / {name} undisturbed"] = killed[name] / calm[name]


def _told(found: Found, name: str, requests: list[Request], seconds: float) -> dict[str, float]:
    """Note how a load ended; its latency percentiles, in seconds."""
    answered = [request for request in requests if request.is_answered]
    cuts = statistics.quantiles([request.seconds for request in answered], n=100, method="inclusive")
    percentiles = {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98]}
    found.metrics |= {
        f"{name}: requests": len(requests),
        f"{name}: answered": len(answered),
        f"{name}: answered after retries of the client": sum(r.num_retries > 0 for r in answered),
        f"{name}: streams that broke and were asked for again": sum(r.num_broken for r in requests),
        f"{name}: requests a second": len(requests) / seconds,
        **{f"{name}: latency {key}, seconds": value for key, value in percentiles.items()},
        f"{name}: longest latency, seconds": max(request.seconds for request in answered),
    }
    for kind in sorted({request.error for request in requests if request.error and not request.is_answered}):
        found.metrics[f"{name}: given up with {kind}"] = sum(r.error == kind for r in requests if not r.is_answered)
    found.exactly(f"{name}: requests without an answer", 0, len(requests) - len(answered))
    return percentiles


def kill_replica() -> tuple[str, float]:
    """End one replica's process as a crash would, with requests in its hands; its name, and when that was."""
    import ray

    name = _replicas()[0]
    ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)
    return name, time.monotonic()


def _replicas() -> list[str]:
    import ray

    listed: Any = ray.util.list_named_actors(all_namespaces=True)
    return sorted(actor["name"] for actor in listed if actor["name"].startswith("SERVE_REPLICA::"))


def _wait_for_replicas(without: str = "") -> None:
    """Until as many replicas run as are asked for, the one that was killed not among them."""
    from ray import serve

    until = time.monotonic() + BACK_SECONDS
    while time.monotonic() < until:
        for application in serve.status().applications.values():
            states: list[Any] = [deployment.replica_states for deployment in application.deployments.values()]
            is_whole = all(state.get("RUNNING", 0) >= NUM_REPLICAS for state in states)
            if is_whole and len([name for name in _replicas() if name != without]) >= NUM_REPLICAS:
                return
        time.sleep(0.1)
    raise TimeoutError(f"after {BACK_SECONDS:g} seconds there are no {NUM_REPLICAS} replicas")


def _scripted_run(folder: Path) -> str:
    """A finished run of the scripted engine, whose requests take a moment."""
    for split, num_rows in (("labeled", 40), ("unlabeled", 60)):
        write_pool_file(f"{folder}/{split}.csv", num_rows, answers=split == "labeled", stem=split)
    speed = {"max_num_seqs": SEATS, "seconds_per_request": SERVICE_SECONDS}
    config = RunConfig.model_validate(
        {
            "name": "served",
            "task": "wordnet",
            "model": "scripted",
            "data": {split: f"{folder}/{split}.csv" for split in ("labeled", "unlabeled")},
            "method": {"embedder": "hash"},
            "numerics": {"engine": "scripted"},
            "speed": {"engine_kwargs": {**speed}, "num_cpus_per_replica": 0.5},
            "report_to": [],
        }
    )
    return run(config, f"{folder}/run").root


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the same with 200 requests")
    parser.add_argument("--run", metavar="DIR", help="a finished run to serve (default: a scripted one is made)")
    parser.add_argument("--requests", type=int, help="requests of each load (default: 1,000)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests at once (default: 64)")
    parser.add_argument("--out", help="write the figures to this file as JSON")
    options = parser.parse_args(arguments)
    options.requests = options.requests or (200 if options.quick else 1_000)
    return options


if __name__ == "__main__":
    sys.exit(main())
