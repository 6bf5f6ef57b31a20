"""`semievol run` as chaos starts it: with a name for its host, a patience of seconds, and a stack dump on SIGUSR1.

`python -m benchmarks.chaos_driver HOST PATIENCE_SECONDS run CONFIG ...`. Invariant: everything after the two is the
command line of semievol, done by it. A driver that stands still on this host is known to live and is never taken
over; as one of another host it is, once its lease's counter stood still for the patience.
"""

import faulthandler
import signal
import sys
from functools import partial
from types import SimpleNamespace

from semievol_ray import cli, lease, runs

RENEW_SECONDS = 0.5


def main(host: str, patience_seconds: float, command: list[str]) -> int:
    """Run the command as on another host; its exit code."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    lease.socket = SimpleNamespace(gethostname=lambda: host)  # type: ignore[assignment,attr-defined]
    opened = partial(runs.Run.open, patience_seconds=patience_seconds, renew_seconds=RENEW_SECONDS)
    runs.Run.open = staticmethod(opened)  # type: ignore[method-assign]
    return cli.main(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
