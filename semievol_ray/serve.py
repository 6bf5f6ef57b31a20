"""`semievol serve`: a run's models behind OpenAI's API, and /v1/label, on Ray Serve.

Invariant: the API key comes from the environment or a file and never leaves this process; without one nothing but this
machine is listened to.
"""

import argparse
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from semievol_ray.config import RunConfig
from semievol_ray.core.certificate import evidence
from semievol_ray.driver import terminated_as_interrupt
from semievol_ray.endpoint.application import build
from semievol_ray.endpoint.gate import key_digest
from semievol_ray.endpoint.models import Labelling, Serving, model_name
from semievol_ray.engines.adapters import adapter_rank, adapter_settings, is_whole_model, only_merged
from semievol_ray.engines.base import EngineSpec, Sampling
from semievol_ray.engines.ladder import default_max_num_seqs
from semievol_ray.errors import UserError
from semievol_ray.extras import check_extras
from semievol_ray.handover import final_round, reopened, require_same_base, trained, trained_rounds
from semievol_ray.placement import Replicas, place
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step
from semievol_ray.stages.alone import Alone, estimator
from semievol_ray.stages.answer import answer
from semievol_ray.stages.certifying import certified, certifying
from semievol_ray.stages.context import Context
from semievol_ray.stages.deployment import Head, deployed, head_listening
from semievol_ray.stages.learning import adapter_of

KEY_VARIABLE = "SEMIEVOL_API_KEY"
_EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True)
class ServeSettings:
    """How a run is served; `key` is the digest of the API key, `port` 0 any that is free."""

    number: int | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: tuple[int, int] | None = None
    key: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class Served:
    """Where a run is served, by which machine, and what."""

    url: str
    head: Head
    serving: Serving
    replicas: Replicas


def settings_of(arguments: argparse.Namespace) -> ServeSettings:
    """What the command line and the environment ask for. Raises UserError."""
    key = read_key(arguments.api_key_file)
    return ServeSettings(
        arguments.round, arguments.host, arguments.port, arguments.replicas, key and key_digest(key), arguments.address
    )


def read_key(path: str | None) -> str | None:
    """The API key in a file, or else in the environment, from which it is taken so that no child process has it.

    Raises UserError, without ever showing it.
    """
    given, where = os.environ.pop(KEY_VARIABLE, None), f"the environment variable {KEY_VARIABLE}"
    if path is not None:
        where = path
        try:
            given = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: the API key cannot be read from there ({type(error).__name__}).") from None
    if given is None:
        return None
    key = given.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{where} holds no API key: one is a line of letters, digits and signs without blanks.")
    return key


def serve_run(
    root: str,
    settings: ServeSettings,
    progress: Progress | None = None,
    until: Callable[[Served], None] | None = None,
) -> None:
    """Serve a finished run until Ctrl-C, or until `until` returns.

    First the dev fold is answered, once, where there is one. Raises UserError for a round that is not there, a port in
    use, or a host that others reach without a key; PlacementError when an engine does not fit.
    """
    progress = progress or Progress()
    config = reopened(root, settings.address, settings.replicas, fits=True)
    number = final_round(root, config) if settings.number is None else settings.number
    trained(root, number)
    check_extras(config)
    _require_key(settings)
    config = config.model_copy(update={"max_error_rate": 1.0})
    with ExitStack() as closing, terminated_as_interrupt():
        with Run.open(root, {}, command="serve") as held:
            context = Context(held, config, progress, closing)
            require_same_base(context, trained(held.root, number))
            replicas = place(config.speed, context.resources)
            head = head_listening(settings.host, settings.port)
            replicas = replicas if settings.replicas else replace(replicas, num=1, min_num=1)
            serving = _serving(context, number, replicas, settings.key)
        progress.say("starting the engine")
        name, seats = f"semievol-{config.name}", _num_seats(serving.spec)
        closing.enter_context(deployed(name, partial(build, serving), replicas, settings.host, head.port, seats))
        served = Served(_url(settings.host, head), head, serving, replicas)
        progress.say(told(served, settings.host))
        (until or _forever)(served)


def told(served: Served, host: str) -> str:
    """What is served where, a line each."""
    certificate, labelling = served.serving.labelling.certificate, served.serving.labelling
    promise = certificate.reason if certificate.tau is None else evidence(certificate)
    key = "an API key is asked for" if served.serving.key else "no API key is asked for"
    return "\n".join(
        [
            f"serving at {served.url} ({key}); Ctrl-C ends it",
            *([_way_there(host, served.head)] if _is_loopback(host) and not served.head.is_here else []),
            f"models: {', '.join(served.serving.models)}",
            f"/v1/label: {labelling.model}; {promise}",
            f"engines: {served.replicas.min_num} to {served.replicas.max_num}",
        ]
    )


def _way_there(host: str, head: Head) -> str:
    return (
        f"which is the cluster's head, {head.address}, and listens to itself alone. To ask from here: "
        f"ssh -L {head.port}:{host}:{head.port} {head.address}; to serve others: --host 0.0.0.0 and a key"
    )


def _serving(context: Context, number: int, replicas: Replicas, key: str | None) -> Serving:
    """What every replica is given; the certificate is made on the way, where it is not there yet."""
    config = context.config
    rounds = trained_rounds(context.run.root)
    alone = _is_alone(rounds[number], config)
    numerics = {**context.serving_numerics(), "adapter_serving": "merged" if alone else "dynamic"}
    adapter = adapter_of(rounds[number], config.name)
    label_model = model_name(config.name, number)
    found = certifying(context, number, adapter, numerics)
    answer(context, "certify", [found.dev, found.others] if found else [])
    beside = {} if alone else {n: step for n, step in rounds.items() if not _is_alone(step, config)}
    adapters = {model_name(config.name, n): f"{step.path}/adapter" for n, step in beside.items()}
    if left_out := [model_name(config.name, n) for n in rounds.keys() - beside.keys() - {number}]:
        context.progress.say(f"not served, for each needs an engine to itself: {', '.join(sorted(left_out))}")
    models: dict[str, str | None] = {name: name for name in adapters}
    models = {label_model: None} if alone else {model_name(config.name, None): None, **models}
    manner = Alone(Sampling(0.0, context.task.max_tokens), models[label_model], estimator(config.method.confidence))
    return Serving(
        _spec(context, replicas, str(numerics["dtype"]), adapter.path if alone else None, adapters),
        models,
        Labelling(label_model, manner, certified(context, found)),
        context.task,
        config.numerics.template_date,
        key,
    )


def _is_alone(step: Step, config: RunConfig) -> bool:
    """Whether a round's weights cannot share an engine with others: a whole model, or what is only served merged."""
    adapter = f"{step.path}/adapter"
    return is_whole_model(adapter) or config.train.use_dora or bool(only_merged(adapter_settings(adapter) or {}))


def _spec(context: Context, replicas: Replicas, dtype: str, merged: str | None, adapters: dict[str, str]) -> EngineSpec:
    config = context.config
    quantization = {"quantization": config.numerics.quantization} if config.numerics.quantization else {}
    return EngineSpec(
        kind=config.numerics.engine,
        model=context.model().name,
        model_path=context.model().reference,
        merged=merged,
        adapters=adapters,
        dtype=dtype,
        max_model_len=config.numerics.max_model_len,
        max_lora_rank=max(map(adapter_rank, adapters.values()), default=config.train.lora_r),
        seed=config.seed,
        num_threads=replicas.num_threads,
        on_gpu=replicas.gpus_each > 0,
        answer_format=context.task.format,
        numerics={**quantization, **config.numerics.engine_kwargs},
        speed=config.speed.engine_kwargs,
        core="process",  # vLLM's server works with the asynchronous engine only
    )


def _num_seats(spec: EngineSpec) -> int:
    return int(spec.speed.get("max_num_seqs", default_max_num_seqs(spec.kind, on_gpu=spec.on_gpu)))


def _require_key(settings: ServeSettings) -> None:
    """Raises UserError where others than the machine that listens would be served without a key."""
    if settings.key is None and not _is_loopback(settings.host):
        raise UserError(
            f"--host {settings.host}: others than this machine would be served without an API key. Put one into "
            f"{KEY_VARIABLE} or a file named by --api-key-file."
        )


def _url(host: str, head: Head) -> str:
    """Where the head is asked; a head that listens everywhere and is another machine is told by its address."""
    told = head.address if host in _EVERYWHERE and not head.is_here else host
    return f"http://{f'[{told}]' if ':' in told else told}:{head.port}/v1"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _forever(_: Served) -> None:
    threading.Event().wait()
