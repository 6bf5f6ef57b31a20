"""Addresses of object stores: which schemes are served, by which package, with credentials from where.

Invariant: no address with a user or password in it gets past `scheme_of`, and no message shows one.
"""

import re

from semievol_ray.errors import StorageError

PACKAGES = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs")}
"""Scheme -> the package that serves it, and our extra that brings it."""

ENVIRONMENT = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's account",
}
"""Extra -> where the credentials of its store come from."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_USER_INFO = re.compile(r"(?<=://)[^/\s]*@")


def is_url(path: str) -> bool:
    """Whether a path begins with a scheme, served here or not."""
    return _SCHEME.match(path) is not None


def without_user(text: str) -> str:
    """A text whose addresses have lost their user and password."""
    return _USER_INFO.sub("", text)


def scheme_of(url: str) -> str:
    """The scheme of an address. Raises StorageError for one that is not served, or that holds a user or password."""
    found = _SCHEME.match(url)
    assert found, "a path without a scheme is local"
    scheme = found[1].lower()
    if scheme not in PACKAGES:
        raise StorageError(
            f"{without_user(url)}: paths are local, s3:// or gs://; {scheme}:// is not supported. Name another path."
        )
    if "@" in url[found.end() :].split("/")[0]:
        raise StorageError(
            f"{without_user(url)} was given with a user or password, which would end up in logs and manifests. Leave "
            f"it out of the address; credentials are taken from {ENVIRONMENT[PACKAGES[scheme][1]]}."
        )
    return scheme
