"""The peak of each worker's memory by ZeRO stage, beside what the arithmetic before a run expects.

Invariant: every stage and method is a set of workers of its own; what importing takes is told apart.
"""

import json
import pickle
import socket
import subprocess
import sys
from pathlib import Path

from semievol_ray.engines.finetune import FinetuneSpec


def peaks_mib(spec: FinetuneSpec, num_workers: int, folder: Path, env: dict[str, str]) -> tuple[float, float]:
    """The largest peak of the workers of one fine-tuning on a CPU, and what importing took of that, in MiB."""
    folder.mkdir(parents=True)
    (folder / "spec.pickle").write_bytes(pickle.dumps(spec))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(num_workers)}
    workers = []
    for rank in range(num_workers):
        found, log = folder / f"found-{rank}.json", folder / f"log-{rank}"
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(num_workers)}
        command = [sys.executable, "-m", "benchmarks.train_start", "worker", str(found), str(folder / "spec.pickle")]
        with log.open("w") as output:
            workers.append(subprocess.Popen(command, env=env | place | ranks, stdout=output, stderr=output))
    try:
        for rank, worker in enumerate(workers):
            if worker.wait():
                raise RuntimeError(f"worker {rank} failed: {(folder / f'log-{rank}').read_text()[-2000:]}")
    finally:
        for worker in workers:
            worker.kill()
    told = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(num_workers)]
    return max(one["peak_mib"] for one in told), max(one["imported_mib"] for one in told)
