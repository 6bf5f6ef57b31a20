"""Wait until a Ray cluster has so many living nodes: python nodes.py ADDRESS NUM_NODES SECONDS. Exit code 1 if not."""

import sys
import time
import traceback

import ray
from ray.exceptions import AuthenticationError

REFUSED = (
    "the Ray cluster takes only who has its token: give RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN (or "
    "RAY_AUTH_TOKEN_PATH, the file that holds it), here as on every node"
)


def num_alive() -> int:
    """How many nodes of the cluster live."""
    return sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]


def joined(address: str, deadline: float) -> bool:
    """Whether this process could join the cluster before the deadline (of the monotonic clock)."""
    while time.monotonic() < deadline:
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
            return True
        except (AuthenticationError, ConnectionError, RuntimeError) as error:
            if AuthenticationError.__name__ in "".join(traceback.format_exception(error)):
                print(REFUSED, file=sys.stderr, flush=True)
                return False
            time.sleep(2)
    return False


def main(address: str, num_nodes: int, seconds: float) -> int:
    """0 as soon as the nodes are there, 1 when the time is up."""
    deadline, found = time.monotonic() + seconds, 0
    if joined(address, deadline):
        while (found := num_alive()) < num_nodes and time.monotonic() < deadline:
            time.sleep(1)
    print(f"{found} of {num_nodes} nodes are there", flush=True)
    return int(found < num_nodes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
