"""Whether a Ray cluster answers at an address, and lets this process in: `ray.init` alone tries for minutes.

Invariant: nothing is started, and no address is waited for longer than PROBE_SECONDS.
"""

import os
import socket
from typing import Any

from semievol_ray.errors import ClusterError, PlacementError

PROBE_SECONDS = 5.0
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What an HTTP/2 client, such as gRPC's, says first: the preface and an empty frame of settings."""
_SETTINGS = 4
"""The kind, in the fourth byte, of the frame with which a server answers."""


def check_address(address: str | None) -> None:
    """Raises PlacementError, within about PROBE_SECONDS, when no Ray cluster answers where `ray.init` would look."""
    where = _where(address)
    if where is None:
        return
    host, _, port = where.rpartition(":")
    if not port.isdigit() or not host:
        raise PlacementError(f"{address!r} is no address of a Ray cluster: give HOST:PORT, such as 10.0.0.5:6379.")
    if reason := _silence(host.strip("[]"), int(port)):
        raise PlacementError(
            f"no Ray cluster answers at {where}: {reason}. Start one there with `ray start --head`, which "
            "prints its address, and see that no firewall is between."
        )


def use_token(address: str | None) -> None:
    """Have this process show its user's token where the cluster asks for one.

    `ray start --head` asks for the token in ~/.ray/auth_token as soon as one lies there, and `ray.init` shows it to
    `auto` alone. Raises ClusterError where there is no token, or another one.
    """
    where = _where(address)
    if where is None or "://" in str(address) or not _asks_for_token(where):
        return
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    enable: Any = maybe_enable_token_auth_if_token_available
    if "RAY_AUTH_MODE" in os.environ or not enable(warn_if_disabled=False) or _asks_for_token(where):
        raise ClusterError(no_token(where))


def no_token(where: str) -> str:
    """What to do about a cluster that asks for a token."""
    return (
        f"the Ray cluster at {where} takes only who shows its token, and this process has none or another "
        f"(RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set')}). Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN "
        "to the cluster's token or RAY_AUTH_TOKEN_PATH to a file with it, as on its nodes: there it is in these "
        "variables, or in ~/.ray/auth_token."
    )


def _asks_for_token(where: str) -> bool:
    """Whether the cluster refuses this process for the token that it shows, or does not."""
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    try:
        ensure_token_if_auth_enabled({}, create_token_if_missing=False)  # Ray's C++ core aborts where there is none
        GcsClient(address=where)
    except AuthenticationError:
        return True
    except (RayError, RuntimeError, OSError):
        return False  # `ray.init` tells of it
    return False


def _where(address: str | None) -> str | None:
    """HOST:PORT that an address stands for; None where a cluster would be started."""
    if address == "local":
        return None
    if address and address != "auto":
        return address.rpartition("://")[2].rstrip("/")
    from ray._private import services

    look_up: Any = services.canonicalize_bootstrap_address
    try:
        found: str | None = look_up(address)
        return found
    except ConnectionError as error:
        raise PlacementError(
            "no Ray cluster runs on this machine. Start one with `ray start --head`, or give its HOST:PORT."
        ) from error


def _silence(host: str, port: int) -> str | None:
    """Why nobody who speaks gRPC is there; None when somebody is."""
    try:
        with socket.create_connection((host, port), timeout=PROBE_SECONDS) as peer:
            if os.environ.get("RAY_USE_TLS") == "1":
                return None  # encrypted: what connects is all that can be seen from here
            peer.sendall(_HELLO)
            said = peer.recv(9)
    except TimeoutError:
        return f"nothing came back in {PROBE_SECONDS:g} seconds"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None if len(said) > 3 and said[3] == _SETTINGS else "what listens there is no Ray"
