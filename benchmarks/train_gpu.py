"""What a GPU did of a fine-tuning, beside what it could have done and what DeepSpeed's estimator says it holds.

Invariant: a figure that cannot be known here, such as the MFU of an unknown device, is left out.
"""

from collections.abc import Iterator

from semievol_ray.engines.batches import in_order
from semievol_ray.engines.finetune import FinetuneSpec, read_examples, tokenised
from semievol_ray.engines.fit import lengths_of
from semievol_ray.engines.flops import peak_flops, step_flops
from semievol_ray.engines.loss import TrainingExample
from semievol_ray.engines.memory import ModelShape, needs, num_trainable, plan_of, shape_of, with_examples
from semievol_ray.engines.rendering import load_tokenizer


def against_estimator(spec: FinetuneSpec, rate: float, gpu_bytes: int) -> Iterator[tuple[str, float]]:
    """Names and figures: tokens a second, MFU, memory, and what DeepSpeed and the fit before the start expect."""
    yield "tokens a second", rate
    yield "peak GB of the GPU", gpu_bytes / 1e9
    shape = shape_of(spec.model_path)
    if shape is None:
        return
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    if share := mfu(spec, shape, rate, peak_flops(device, spec.dtype)):
        yield "MFU", share
    plan = with_examples(plan_of(shape, spec.train, spec.speed, spec.dtype), lengths_of(_examples(spec)))
    yield "reckoned GB before the start", needs(shape, plan).device / 1e9
    yield "reckoned GB of the states", needs(shape, plan).states / 1e9
    if spec.train.method == "full":
        yield "DeepSpeed's estimate of the states in GB", deepspeeds_estimate(spec, shape) / 1e9


def deepspeeds_estimate(spec: FinetuneSpec, shape: ModelShape) -> int:
    """Bytes of each GPU by DeepSpeed's estimator of the stage, which knows full fine-tuning in 16 bits alone."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as of_three
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as of_two

    offload, workers = spec.speed.offload, spec.speed.num_train_workers
    if spec.speed.zero_stage < 3:
        _, gpu = of_two(shape.num_parameters, workers, cpu_offload=offload != "none")
        return int(gpu)
    _, gpu, _ = of_three(
        shape.num_parameters, shape.largest_layer, workers,
        cpu_offload=offload != "none", cpu_offload_params=offload == "all",
    )  # fmt: skip
    return int(gpu)


def mfu(spec: FinetuneSpec, shape: ModelShape, rate: float, peak: float | None) -> float | None:
    """The share of the device's peak that a rate of tokens a second makes; None where the peak is not known."""
    if not peak:
        return None
    ordered = in_order(_examples(spec), spec.train, spec.seed)
    flops = step_flops(shape, num_trainable(shape, spec.train), ordered)
    return flops / sum(len(e.ids) for e in ordered if e.num_answer) * rate / peak


def reckoned_mib(spec: FinetuneSpec) -> float | None:
    """What a worker on a CPU needs by the arithmetic before the start, in MiB; None for a model of unknown shape."""
    if (shape := shape_of(spec.model_path)) is None:
        return None
    plan = with_examples(plan_of(shape, spec.train, spec.speed, spec.dtype), lengths_of(_examples(spec)))
    found = needs(shape, plan)
    return (found.device + found.host) / 2**20


def _examples(spec: FinetuneSpec) -> list[TrainingExample]:
    return tokenised(read_examples(spec.examples), spec, load_tokenizer(spec.model_path))
