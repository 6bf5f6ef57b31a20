"""An ASGI application as replicas of Ray Serve: they grow and shrink with the load, and one that dies is replaced.

Ray's own LLM application is not used: it takes adapters from remote addresses only (ray 2.60), and ours lie in the run.
Invariant: Serve is begun here and ended here; on a cluster where it runs already nothing is touched.
"""

import logging
import platform
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from semievol_ray.errors import ClusterError, MissingExtraError, RunStopped, SemievolError, UserError
from semievol_ray.placement import Replicas
from semievol_ray.stages.cluster import raised_by_worker

Build = Callable[[], Awaitable[Any]]
"""Makes, in a replica, what has `app` (ASGI), `check_health()` (async) and `close()`."""
START_TRIES = 3
_HEAD = "node:__internal_head__"
"""The resource by which Ray marks the node whose proxy, with HeadOnly, is the one that listens."""
_ERROR_LINE = re.compile(r"^[\w.]+(?:Error|Exception): (?!Traceback).+$", re.MULTILINE)
HEALTH_SECONDS, LEAVE_SECONDS = 5.0, 10.0
CONTROLLER = "SERVE_CONTROLLER_ACTOR"
"""Serve's own actor, one on a cluster."""


@dataclass(frozen=True)
class Head:
    """The cluster's head, which is what listens: its address, whether this process is on it, and the port there."""

    address: str
    is_here: bool
    port: int


def head_listening(host: str, port: int) -> Head:
    """The head, asked by itself whether it can listen at host:port (0: any port). Raises UserError."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    listed: Any = ray.nodes  # untyped in ray
    head = next(node for node in listed() if node["Alive"] and _HEAD in node["Resources"])
    node, address = head["NodeID"], head["NodeManagerAddress"]
    if node == ray.get_runtime_context().get_node_id():
        return Head(address, True, free_port(host, port))
    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    asked = ray.remote(free_port).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(host, port)
    try:
        return Head(address, False, ray.get(asked))
    except RayError as error:
        raise raised_by_worker(str(error)) from error


def free_port(host: str, port: int) -> int:
    """The port, found free on this machine. Raises UserError."""
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{platform.node()} cannot listen at {host}:{port}: {getattr(error, 'strerror', None) or error}. "
            "Name another with --port or --host."
        ) from error


@contextmanager
def deployed(name: str, build: Build, replicas: Replicas, host: str, port: int, requests_each: int) -> Iterator[None]:
    """For the block, the application answers at host:port, on the cluster's head.

    `requests_each`: requests in hand of a replica from which on another is started; twice as many are given to it.
    Raises ClusterError where Serve runs already or the application does not start.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("serving needs ray's Serve: pip install 'semievol-ray[cpu]' (or [cuda])") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # what it says of itself is said in our words
    _require_none_running()
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=quiet)
    try:
        target = _deployment(name, build, replicas, requests_each)
        try:
            serve.run(target, name=name, route_prefix="/", logging_config=quiet)
        except RuntimeError as error:
            raise failed_start(_why(name) or str(error)) from error
        yield
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]


def failed_start(text: str) -> SemievolError:
    """What an application that does not start is told as, from Serve's account of it: the replica's last error."""
    own = raised_by_worker(text)
    if type(own) is not RunStopped:
        return own
    lines = _ERROR_LINE.findall(text)
    return RunStopped(
        f"the engine does not start: {lines[-1] if lines else text.strip().splitlines()[-1]}. It was tried "
        f"{START_TRIES} times. Where memory is short, end what else uses it or serve fewer engines (--replicas 1); "
        "Serve's logs in Ray's session folder hold the whole of it."
    )


def _deployment(name: str, build: Build, replicas: Replicas, requests_each: int) -> Any:
    from ray import serve

    @serve.ingress()
    class Replica:
        """One process with one engine."""

        async def __init__(self) -> None:  # type: ignore[misc]  # Serve awaits it
            self._application = await build()

        def __serve_build_asgi_app__(self) -> Any:
            return self._application.app

        async def check_health(self) -> None:
            await self._application.check_health()

        def __del__(self) -> None:
            if hasattr(self, "_application"):
                self._application.close()

    autoscaling = {
        "min_replicas": replicas.min_num,
        "initial_replicas": replicas.min_num,
        "max_replicas": replicas.max_num,
        "target_ongoing_requests": requests_each,
    }
    made: Any = serve.deployment(
        Replica,
        name=name,
        ray_actor_options={"num_cpus": replicas.cpus_each, "num_gpus": replicas.gpus_each}
        | ({"runtime_env": dict(replicas.runtime_env)} if replicas.runtime_env else {}),
        autoscaling_config=autoscaling,
        max_ongoing_requests=2 * requests_each,
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=LEAVE_SECONDS,
        max_constructor_retry_count=START_TRIES,
    )
    return made.bind()


def _require_none_running() -> None:
    """Serve without an application counts too: it would listen at its own host, and be ended with ours."""
    import ray
    from ray import serve

    there = sorted(serve.status().applications)
    named: Any = ray.util.list_named_actors(all_namespaces=True)
    if there or any(actor["name"] == CONTROLLER for actor in named):
        raise ClusterError(
            f"Ray Serve runs on this cluster already ({', '.join(there) or 'without an application'}), at its own "
            "port. Stop that first (`serve shutdown`), or serve on another cluster."
        )


def _why(name: str) -> str:
    """What Serve tells of an application that does not start; it holds the replica's traceback."""
    from ray import serve

    found = serve.status().applications.get(name)
    told = [found.message, *(of.message for of in found.deployments.values())] if found else []
    return "\n".join(text for text in told if text)
