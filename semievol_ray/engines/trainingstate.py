"""What a fine-tuning has learned so far, whole and by name: parameters and AdamW's moments, out of DeepSpeed and back.

Invariant: the values are float32 and not cut up, so that any number of workers and any ZeRO stage can go on from them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from semievol_ray.engines.saving import whole

PARAMETER, MOMENTS = "parameter", ("exp_avg", "exp_avg_sq")
KINDS = (PARAMETER, *MOMENTS)


def learning(model: Any) -> Iterator[tuple[str, Any]]:
    """Names and parameters that learn, in an order that is the same in every worker."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def is_cut_up(model: Any) -> bool:
    """Whether ZeRO-3 partitioned what learns."""
    return any(hasattr(parameter, "ds_id") for _, parameter in learning(model))


def state_of(engine: Any, model: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name -> whole float32 values of its KINDS, one parameter after another; all workers take part in each."""
    begin_moments(engine)
    for name, parameter in learning(model):
        yield name, {kind: _whole_value(engine, parameter, kind) for kind in KINDS}


def put_parameters(model: Any, values: Mapping[str, Any]) -> None:
    """Put whole values into parameters of a model that DeepSpeed has not wrapped yet; all workers call it alike.

    Of parameters that ZeRO-3 partitioned the first worker's values count, and the others' may be None.
    """
    import torch

    parameters = dict(learning(model))
    for name, value in values.items():
        with whole(parameters[name], write=True), torch.no_grad():
            if value is not None:
                parameters[name].copy_(value)


def put_state(engine: Any, model: Any, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Put whole float32 values of the KINDS of parameters into DeepSpeed's own copies of them."""
    parameters = dict(learning(model))
    for name, kinds in values.items():
        for kind, value in kinds.items():
            _put_value(engine, parameters[name], kind, value)


def begin_moments(engine: Any, step: int | None = None) -> None:
    """Let AdamW's moments exist before the first step, and its count of steps be `step` where that is given."""
    import torch

    inner = engine.basic_optimizer
    for group, flat in _held(engine):
        state = inner.state[flat]
        if not state:
            beside = flat.device if group.get("fused") or group.get("capturable") else torch.device("cpu")
            state["step"] = torch.zeros((), dtype=torch.float32, device=beside)
            state |= {moment: torch.zeros_like(flat, memory_format=torch.preserve_format) for moment in MOMENTS}
        if step is not None:
            state["step"].fill_(float(step))
    if link := getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None):
        engine.optimizer._hp_optimizer_states_linked = False  # set after the first of several groups was stepped
        link()


def num_updates(engine: Any) -> int:
    """AdamW's count of steps: those that an overflow left out are not in it."""
    counts = [engine.basic_optimizer.state[flat]["step"] for _, flat in _held(engine)]
    return int(max((float(count) for count in counts), default=0.0))


def loss_scale(engine: Any) -> float | None:
    """What float16 losses are multiplied by at the moment; None in other dtypes."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return float(scaler.cur_scale) if engine.fp16_enabled() and scaler is not None else None


def put_loss_scale(engine: Any, scale: float | None) -> None:
    """Go on with a loss scale that was found before."""
    if scale is not None and (scaler := getattr(engine.optimizer, "loss_scaler", None)) is not None:
        scaler.cur_scale = scale


def _held(engine: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """The tensors that AdamW steps in this worker, each with its group: ZeRO's flat pieces, or the parameters."""
    groups = engine.basic_optimizer.param_groups
    if (pieces := getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)) is not None:
        return ((groups[0], piece) for piece in pieces)
    return ((group, tensor) for group in groups for tensor in group["params"] if tensor.numel())


def _key(kind: str) -> str | None:
    return None if kind == PARAMETER else kind


def _whole_value(engine: Any, parameter: Any, kind: str) -> Any:
    if hasattr(parameter, "ds_id"):
        return parameter._z3_optimizer.get_full_hp_param(parameter, _key(kind))
    if hasattr(parameter, "_hp_mapping"):
        return parameter.get_full_hp_param(_key(kind))
    own = _own_copy(engine, parameter)
    return own.detach() if kind == PARAMETER else engine.basic_optimizer.state[own][kind]


def _put_value(engine: Any, parameter: Any, kind: str, value: Any) -> None:
    if hasattr(parameter, "ds_id"):
        parameter._z3_optimizer.set_local_hp_param(_piece(parameter, value), parameter, _key(kind))
    elif hasattr(parameter, "_hp_mapping"):
        parameter.set_full_hp_param(value.view(parameter.shape), _key(kind))
    else:
        own = _own_copy(engine, parameter)
        (own.data if kind == PARAMETER else engine.basic_optimizer.state[own][kind]).copy_(value)


def _own_copy(engine: Any, parameter: Any) -> Any:
    """What AdamW steps for a parameter without ZeRO: its float32 copy in lower dtypes, else the parameter itself."""
    optimizer = engine.optimizer
    low, high = getattr(optimizer, "fp16_groups", ()), getattr(optimizer, "fp32_groups", ())
    pairs = (
        (one, copy) for ones, copies in zip(low, high, strict=True) for one, copy in zip(ones, copies, strict=True)
    )
    return next((copy for one, copy in pairs if one is parameter), parameter)


def _piece(parameter: Any, value: Any) -> Any:
    """This worker's share of a value under ZeRO-3, whose last one is filled up to the length of the others."""
    import torch

    length, group = parameter.ds_tensor.numel(), parameter.ds_process_group
    flat = torch.zeros(length * torch.distributed.get_world_size(group), dtype=value.dtype)
    flat[: value.numel()] = value.flatten()
    return flat[length * torch.distributed.get_rank(group) :][:length]
