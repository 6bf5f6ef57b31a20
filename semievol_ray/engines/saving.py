"""What a fine-tuning saves: an adapter folder, or a whole model's; under any ZeRO stage.

Invariant: every worker takes part, since ZeRO-3 gathers one parameter at a time from all; the first one writes.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from semievol_ray import folders
from semievol_ray.engines.adapters import verify_adapter
from semievol_ray.engines.base import Tokenizer


def save(model: Any, tokenizer: Tokenizer, out: str, *, first: bool, values: Mapping[str, Any] | None = None) -> None:
    """Save an adapter in float32, of its trainable parameters alone, or a whole model in its own dtype with tokenizer.

    model: not wrapped. first: this is the worker that writes. values: whole parameters to save in place of the model's.
    Raises AdapterError when what was written cannot be used.
    """
    is_adapter = hasattr(model, "peft_config")
    parameters = dict(_gathered(model, trainable_alone=is_adapter, keep=first))
    if not first:
        return
    parameters |= {name: value.to(parameters[name].dtype) for name, value in (values or {}).items()}
    if not is_adapter:
        model.config.use_cache = True
        parameters |= _buffers(model)
    with folders.local_folder(out) as folder:
        model.save_pretrained(folder, state_dict=parameters)
        if not is_adapter:
            tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]  # the protocol is what rendering needs
        verify_adapter(folder)


def _gathered(model: Any, *, trainable_alone: bool, keep: bool) -> Iterator[tuple[str, Any]]:
    """Names and whole values of the parameters in memory of the CPU; nothing where they are not kept."""
    for name, parameter in model.named_parameters():
        if trainable_alone and not parameter.requires_grad:
            continue
        with whole(parameter):
            if keep:
                value = parameter.detach().cpu().clone()
                yield name, value.float() if trainable_alone else value


def _buffers(model: Any) -> dict[str, Any]:
    """Buffers that belong to a saved model; those that are made anew at every start do not."""
    stored = model.state_dict().keys()
    return {name: buffer.detach().cpu().clone() for name, buffer in model.named_buffers() if name in stored}


def whole(parameter: Any, *, write: bool = False) -> contextlib.AbstractContextManager[Any]:
    """A context in which a parameter that ZeRO-3 partitioned is whole; with `write` the first worker's value stays."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    gathered: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        [parameter], modifier_rank=0 if write else None
    )
    return gathered
