"""The loss and the batches of a fine-tuning, against what they mean written out token by token."""

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray import schema, storage
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.core.answers import Labels
from semievol_ray.engines.adapters import verify_adapter
from semievol_ray.engines.deepspeedconfig import deepspeed_config
from semievol_ray.engines.finetune import FinetuneSpec, read_examples, tokenised
from semievol_ray.engines.loss import IGNORED, TrainingExample, answer_loss, collate, weighted_nll
from semievol_ray.engines.rendering import load_tokenizer
from semievol_ray.errors import DataError
from semievol_ray.tasks import Task

TASK = Task("kinds", "Say what kind of thing is described.", Labels(("plant", "animal", "food")), max_tokens=12)
EXAMPLES = [
    TrainingExample((5, 6, 7, 8, 9, 10, 11), 2, 1.0),
    TrainingExample((12, 13, 14), 1, 1.0),
    TrainingExample(tuple(range(20, 41)), 5, 0.25),
]


def _log_softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    total = top + math.log(sum(math.exp(s - top) for s in scores))
    return [s - total for s in scores]


def _rows(*questions: str, answer: str = "plant") -> list[dict[str, Any]]:
    shared = {"options": None, "group": None, "answer": answer, "source": "gold", "weight": 1.0, "round": 0}
    return [{"id": f"row-{i}", "question": q, **shared} for i, q in enumerate(questions)]


def _spec(model: Path, folder: Path, **changed: Any) -> FinetuneSpec:
    train = TrainConfig(learning_rate=2e-2, num_train_epochs=6, train_batch_size=4, lora_r=4, lora_alpha=8)
    given: dict[str, Any] = {
        "model_path": str(model), "examples": (str(folder / "examples.parquet"),), "task": TASK, "train": train,
        "speed": SpeedConfig(per_device_train_batch_size=2), "dtype": "float32", "max_model_len": 256,
        "template_date": "2024-07-26", "seed": 3, "on_gpu": False, "out": str(folder / "adapter"),
        "curve": str(folder / "curve.jsonl"), **changed,
    }  # fmt: skip
    return FinetuneSpec(**given)


@pytest.fixture
def model(tiny_llama: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()


def _token_losses(model: Any, example: TrainingExample) -> list[float]:
    """-log P of each answer token from one forward pass of the example alone, with nothing padded or left out."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([example.ids])).logits[0].double().tolist()
    start = len(example.ids) - example.num_answer
    return [-_log_softmax(logits[at - 1])[example.ids[at]] for at in range(start, len(example.ids))]


def test_weighted_nll_is_the_weighted_sum_over_answer_tokens() -> None:
    import torch

    torch.manual_seed(0)
    logits, weights = torch.randn(3, 4, 7) * 3, torch.tensor([1.0, 0.5, 2.0])
    labels = torch.tensor([[IGNORED, IGNORED, 1, 6], [0, 2, 3, 4], [IGNORED, IGNORED, IGNORED, 5]])
    expected = 0.0
    for row in range(3):
        for at in range(4):
            if (label := int(labels[row, at])) != IGNORED:
                expected -= float(weights[row]) * _log_softmax(logits[row, at].tolist())[label]
    assert float(weighted_nll(logits, labels, weights[:, None])) == pytest.approx(expected, rel=1e-5)


def test_collate_pads_left_and_marks_only_answers_for_the_loss() -> None:
    batch = collate(EXAMPLES, pad=99)
    width = max(len(e.ids) for e in EXAMPLES)
    for row, example in enumerate(EXAMPLES):
        gap, length = width - len(example.ids), len(example.ids)
        assert batch["input_ids"][row].tolist() == [99] * gap + list(example.ids)
        assert batch["attention_mask"][row].tolist() == [0] * gap + [1] * length
        assert batch["position_ids"][row].tolist()[gap:] == list(range(length))
        answer = list(example.ids)[-example.num_answer :]
        assert batch["labels"][row].tolist() == [IGNORED] * (width - example.num_answer) + answer
    assert batch["weights"].tolist() == [1.0, 1.0, 0.25]


def test_loss_of_a_padded_batch_is_the_mean_over_the_tokens_of_single_examples(model: Any) -> None:
    import torch

    with torch.no_grad():
        loss, _ = answer_loss(model, collate(EXAMPLES, pad=0))
    total = sum(e.weight * sum(_token_losses(model, e)) for e in EXAMPLES)
    assert float(loss) == pytest.approx(total / sum(e.num_answer for e in EXAMPLES), rel=1e-5)


def test_loss_of_accumulated_micro_batches_adds_up_to_that_of_the_whole_batch(model: Any) -> None:
    import torch

    num_tokens = sum(e.num_answer for e in EXAMPLES)
    with torch.no_grad():
        whole, _ = answer_loss(model, collate(EXAMPLES, pad=0))
        parts = [answer_loss(model, collate(cut, pad=0), num_tokens)[0] for cut in (EXAMPLES[:1], EXAMPLES[1:])]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)


def test_logits_kept_for_the_answers_alone_give_the_gradients_of_all_logits(model: Any) -> None:
    import torch

    batch = collate(EXAMPLES, pad=0)
    answer_loss(model, batch)[0].backward()
    kept = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "position_ids")}
    nll = weighted_nll(model(**inputs).logits[:, :-1], batch["labels"][:, 1:], batch["weights"][:, None])
    (nll / (batch["labels"] != IGNORED).sum()).backward()
    for mine, full in zip(kept, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(mine, full, rtol=1e-4, atol=1e-6)


def test_tokenised_example_above_max_model_len_is_refused_naming_row_and_length(
    tiny_llama: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_llama))
    rows = _rows("a thing", "a thing " * 100)
    length = len(tokenised(rows, _spec(tiny_llama, tmp_path, max_model_len=2000), tokenizer)[1].ids)
    with pytest.raises(DataError, match=f"row-1 takes {length} tokens"):
        tokenised(rows, _spec(tiny_llama, tmp_path, max_model_len=length - 1), tokenizer)
    assert len(tokenised(rows, _spec(tiny_llama, tmp_path, max_model_len=length), tokenizer)) == 2


def test_fine_tuning_on_no_row_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing to fine-tune on: .*data\.labeled"):
        tokenised([], _spec(tiny_llama, tmp_path), load_tokenizer(str(tiny_llama)))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_deepspeed_config_of_a_stage_and_dtype_is_what_deepspeed_reads(stage: int, dtype: str) -> None:
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = deepspeed_config(TrainConfig(), SpeedConfig(zero_stage=stage), on_gpu=dtype == "bfloat16", dtype=dtype)
    zero = DeepSpeedZeroConfig(**config["zero_optimization"])
    assert zero.stage == stage
    assert DeepSpeedBF16Config(**config["bf16"]).enabled == (dtype == "bfloat16")


WORKER = """
import pickle, sys
from pathlib import Path
from semievol_ray.engines.finetune import finetune
import json
print(json.dumps(finetune(pickle.loads(Path(sys.argv[1]).read_bytes()))))
"""


def test_finetune_on_deepspeed_begins_at_the_models_own_loss_and_saves_a_usable_adapter(
    model: Any, tiny_llama: Path, tmp_path: Path
) -> None:
    import pickle

    rows = _rows("a green thing", "a tall thing in the garden", "it grows", "grass")
    spec = _spec(tiny_llama, tmp_path)
    storage.create_table(spec.examples[0], pa.Table.from_pylist(rows, schema=schema.EXAMPLES))
    (tmp_path / "spec.pickle").write_bytes(pickle.dumps(spec))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env = os.environ | alone | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    worker = [sys.executable, "-c", WORKER, str(tmp_path / "spec.pickle")]
    done = subprocess.run(worker, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    curve = [json.loads(line) for line in storage.lines(spec.curve)]
    examples = tokenised(read_examples(spec.examples), spec, load_tokenizer(str(tiny_llama)))
    first = sum(sum(_token_losses(model, e)) for e in examples) / sum(e.num_answer for e in examples)
    assert curve[0]["loss"] == pytest.approx(first, rel=1e-3)
    assert curve[-1]["loss"] < 0.8 * first
    assert json.loads(done.stdout.splitlines()[-1])["num_steps"] == len(curve) == 6
    assert verify_adapter(spec.out)["num_tensors"] == 2 * 7 * 2  # A and B of seven linear layers in two blocks


JOINED = """
import os, sys
import deepspeed, torch
from pathlib import Path
from semievol_ray import folders
from semievol_ray.engines.finetune import _join_workers
from semievol_ray.engines.operators import load_cpu_operators

def work(rank):
    where = f"tcp://127.0.0.1:{sys.argv[1]}"
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    before = deepspeed.comm.is_initialized()
    load_cpu_operators(Path(folders.cache_folder()))
    _join_workers(on_gpu=False)
    print(before, deepspeed.comm.get_world_size(), deepspeed.comm.get_rank() == rank, flush=True)
    os._exit(0)

children = []
for rank in (0, 1):
    children.append(os.fork())
    if not children[-1]:
        work(rank)
for child in children:
    os.waitpid(child, 0)
"""


def test_deepspeed_counts_the_workers_that_another_joined() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "RANK": "0", "WORLD_SIZE": "1"}
    worker = [sys.executable, "-c", JOINED, str(port)]
    done = subprocess.run(worker, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert [line for line in done.stdout.splitlines() if line.endswith("True")] == ["False 2 True"] * 2, done.stderr


def test_fine_tuning_of_one_step_learns_at_the_full_rate(tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import get_scheduler

    from semievol_ray.engines.finetune import _arguments

    rates = []
    for max_steps in (1, 2):
        arguments = _arguments(_spec(tiny_llama, tmp_path, train=TrainConfig(max_steps=max_steps)), 4)
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        get_scheduler("cosine", optimizer, arguments.get_warmup_steps(max_steps), max_steps)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 0.0]


SUMMED = """
import json, sys
import deepspeed, torch
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines.deepspeedconfig import deepspeed_config

deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
norms = []
for stage in (2, 3):
    train, speed = TrainConfig(train_batch_size=16), SpeedConfig(zero_stage=stage, per_device_train_batch_size=1)
    config = deepspeed_config(train, speed, on_gpu=False, dtype="bfloat16")
    config |= {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 16}
    model = torch.nn.Linear(1, 1, bias=False).bfloat16()
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config | {"gradient_clipping": 1.0}
    )
    for value in (256.0, *[1.0] * 15):
        engine.backward(engine(torch.tensor([[value]], dtype=torch.bfloat16)).sum())
        engine.step()
    norms.append(float(engine.get_global_grad_norm()))
print(json.dumps(norms))
"""


@pytest.mark.slow
def test_gradients_of_micro_batches_in_bfloat16_are_summed_without_losing_small_ones() -> None:
    """256/16 and then fifteen times 1/16: in bfloat16 each of these is lost."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env = os.environ | alone | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    worker = [sys.executable, "-c", SUMMED]
    done = subprocess.run(worker, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [16.9375, 16.9375]
