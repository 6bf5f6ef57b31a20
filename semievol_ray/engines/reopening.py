"""What the training process computes with what it learned, and what another computes with what was saved.

Invariant: both read the same tokens in evaluation mode, in the same dtype, from the base's files and nothing else.
"""

from collections.abc import Sequence
from typing import Any

from semievol_ray import folders, storage
from semievol_ray.config import TrainConfig
from semievol_ray.engines.adapters import is_whole_model
from semievol_ray.engines.checkpointfiles import put_learned
from semievol_ray.engines.checkpoints import Checkpoint
from semievol_ray.engines.references import local_weights
from semievol_ray.engines.trainable import load_base
from semievol_ray.engines.trainingstate import is_cut_up
from semievol_ray.errors import AdapterError

MOST_SHIFT = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Of the logits' standard deviation: what another order of the same sums may come to, on another device too."""
NUM_TOKENS, NUM_POSITIONS = 64, 2
"""Of the example that is read, and at its end, where logits are looked at."""
GPU_SHARE = 0.9
"""Of a GPU's free memory that weights may take; larger models are read on the CPU."""


def store_logits(
    path: str, model: Any, engine: Any, earlier: Checkpoint | None, ids: Sequence[int], *, device: Any, first: bool
) -> None:
    """Store what a model says to the beginning of an example, of the parameters that are to be saved.

    engine: DeepSpeed's, with the model in it. earlier: the checkpoint that is saved in place of the last step. All
    workers call it at once: a model that ZeRO-3 cut up computes in all of them.
    """
    from safetensors.torch import save

    is_cut = is_cut_up(model)
    if not (first or is_cut):
        return
    if earlier is not None:
        put_learned(model, earlier)
    found = _logits(engine if is_cut else model, ids[:NUM_TOKENS], device)
    if first:
        storage.write(path, save(found))


def logit_shift(
    path: str,
    model_path: str,
    out: str,
    train: TrainConfig,
    dtype: str,
    *,
    on_gpu: bool,
    packs_on_gpu: bool,
    num_threads: int | None = None,
) -> float:
    """How far the logits of what was saved in `out` are from the stored ones, in their standard deviations.

    Loads the base with the adapter, or the whole model, on a GPU where it has room. Raises AdapterError, naming the
    difference, when it is more than rounding.
    """
    import torch
    from safetensors.torch import load

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    stored = load(storage.read(path))
    is_whole = is_whole_model(out)
    here = local_weights(out if is_whole else model_path)
    device = _device(here, on_gpu=on_gpu)
    model = load_base(here, train, dtype, packs_on_gpu=packs_on_gpu and device == "cuda")
    if not is_whole:
        model = _with_adapter(model, folders.local_copy(out), getattr(torch, dtype))
    if not train.load_in_4bit:
        model = model.to(device)
    found = _logits(model, stored["ids"].tolist(), model.device)["logits"]
    shift = float((found - stored["logits"]).abs().max() / stored["logits"].std())
    if not shift <= MOST_SHIFT[dtype]:
        raise AdapterError(
            f"{out}: re-opened by another process, what was saved gives other logits than the fine-tuning did: the "
            f"largest difference is {shift:.3g} of their standard deviation, and {MOST_SHIFT[dtype]:g} would be "
            f"rounding in {dtype}. It is not used. The same command saves it again"
        )
    return shift


def _logits(model: Any, ids: Sequence[int], device: Any) -> dict[str, Any]:
    import torch

    training = model.training
    model.eval()
    with torch.no_grad():
        tokens = torch.tensor([list(ids)], device=device)
        logits = model(input_ids=tokens, use_cache=False, logits_to_keep=NUM_POSITIONS).logits[0, -NUM_POSITIONS:]
    model.train(training)
    return {"ids": tokens[0].cpu(), "logits": logits.float().cpu().contiguous()}


def _with_adapter(model: Any, folder: str, dtype: Any) -> Any:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return model


def _device(folder: str, *, on_gpu: bool) -> str:
    if not on_gpu:
        return "cpu"
    import torch

    size = sum(size for name, size in storage.sizes(folder).items() if name.endswith(".safetensors"))
    return "cuda" if size < GPU_SHARE * torch.cuda.mem_get_info()[0] else "cpu"
