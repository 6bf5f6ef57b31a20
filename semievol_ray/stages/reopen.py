"""Re-open: what a fine-tuning saved is read by a process that did not train it, and has to say the same.

Invariant: a step commits no adapter, and no model, whose logits are not those of the process that trained it.
"""

import time
from typing import Any

from semievol_ray import storage
from semievol_ray.engines.finetune import FinetuneSpec
from semievol_ray.engines.reopening import logit_shift
from semievol_ray.stages.cluster import raised_by_worker


def reopened(spec: FinetuneSpec, cpus: float, gpus: float) -> dict[str, float]:
    """The difference of the logits, in standard deviations, and the seconds it took to find out, on such a worker.

    Nothing where the training process stored none: one that had nothing left to learn. Raises AdapterError.
    """
    import ray
    from ray.exceptions import RayError

    if not storage.exists(spec.logits):
        return {}
    began = time.monotonic()
    task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_calls=1)(_shift)
    try:
        shift: float = ray.get(task.remote(spec, max(1, int(cpus))))
    except RayError as error:
        raise raised_by_worker(str(error)) from error
    return {"logit_shift": shift, "reopen_seconds": time.monotonic() - began}


def _shift(spec: FinetuneSpec, num_threads: int) -> float:
    return logit_shift(
        spec.logits,
        spec.model_path,
        spec.out,
        spec.train,
        spec.dtype,
        on_gpu=spec.on_gpu,
        packs_on_gpu=spec.speed.packing and spec.on_gpu,
        num_threads=num_threads,
    )
