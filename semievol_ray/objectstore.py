"""Objects of s3:// and gs:// through fsspec: made by a conditional request, listed without a cache.

Invariant: fsspec, s3fs and gcsfs are imported when such an address is first used, and credentials are taken from the
environment alone.
"""

import errno
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from semievol_ray.addresses import ENVIRONMENT, PACKAGES, scheme_of, without_user
from semievol_ray.errors import MissingExtraError

ERRORS: tuple[type[Exception], ...] = (Exception,)  # five libraries' trees: fsspec's, botocore's, aiohttp's, ...
_READ_AHEAD_BYTES = 8 * 2**20
_NUM_THREADS = 16
_lock = threading.Lock()
_TRANSIENT_ERRNOS = frozenset({errno.EIO, errno.EREMOTEIO, errno.EBUSY, errno.EAGAIN})  # 500, 409, 503 in s3fs
_TRANSIENT_CODES = frozenset({408, 409, 429, 500, 502, 503, 504})
_TRANSIENT_CLASSES = frozenset({
    "botocore.exceptions.HTTPClientError", "botocore.exceptions.ConnectionError",
    "botocore.parsers.ResponseParserError",
    "aiohttp.client_exceptions.ClientError", "requests.exceptions.RequestException", "gcsfs.retry.ChecksumError",
    "google.auth.exceptions.TransportError",
})  # fmt: skip


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment: a server error, a lost connection, too many requests."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS:
        return True
    code = getattr(error, "code", None)
    if isinstance(code, int | str) and str(code).isdigit() and int(code) in _TRANSIENT_CODES:
        return True
    return any(f"{base.__module__}.{base.__qualname__}" in _TRANSIENT_CLASSES for base in type(error).__mro__)


def is_repeating(url: str) -> bool:
    """Whether requests are repeated out of our sight, so that a create may find its own object in the way."""
    return PACKAGES[scheme_of(url)][0] == "gcsfs"


def reason(error: BaseException) -> str:
    """The first line of what a library says of a failure, shortened, and without credentials."""
    text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    if isinstance(error, FileNotFoundError):
        text = "there is no such object" if "bucket" not in text.lower() else text
    return without_user(text.splitlines()[0][:300].rstrip(". "))


def remedy(error: BaseException, url: str) -> str:
    """What to do about a failure."""
    credentials = ENVIRONMENT[PACKAGES[scheme_of(url)][1]]
    if isinstance(error, FileNotFoundError):
        return "Check the spelling, and that the bucket exists."
    if isinstance(error, PermissionError) or "Forbidden" in str(error):
        return f"Ask for permission to list, read and write there; credentials are taken from {credentials}."
    if "credential" in f"{type(error).__name__} {error}".lower():
        return f"Give credentials through {credentials}."
    return "Check the network and the endpoint, then run the same command again."


def create(url: str, data: bytes, _staging: str | None = None) -> bool:
    """Store a new object by one conditional request; False when the key is taken."""
    try:
        _files(url).pipe_file(url, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if _is_precondition_failed(error):
            return False
        raise
    return True


def write(url: str, data: bytes, _staging: str | None = None) -> None:
    """Store an object in place of an older one."""
    _files(url).pipe_file(url, data)


def read(url: str) -> bytes:
    """The bytes of an object."""
    one_request = {"max_concurrency": 1} if _is_s3(url) else {}  # s3fs asks for the size first, to read in parallel
    data: bytes = _files(url).cat_file(url, **one_request)
    return data


def opened(url: str, ranged: Callable[[int, int], bytes]) -> io.BufferedReader:
    """An object open for reading, by ranges that `ranged(start, end)` fetches."""
    size = int(_files(url).info(url)["size"])
    return io.BufferedReader(_Ranges(size, ranged), min(_READ_AHEAD_BYTES, max(size, 1)))


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end`, that one excluded, of an object."""
    data: bytes = _files(url).cat_file(url, start=start, end=end)
    return data


def exists(url: str) -> bool:
    """Whether an object is there; a prefix that others share is none."""
    files = _files(url)
    try:
        if not _is_s3(url):
            return bool(files.info(url)["type"] == "file")
        bucket, key, _ = files.split_path(url)
        files.call_s3("head_object", Bucket=bucket, Key=key)  # `info` would list the prefix where there is none
    except FileNotFoundError:
        return False
    return True


def names(folder: str) -> list[str]:
    """Names right below a prefix, of objects and of prefixes; none when nothing is below it."""
    return [name for name, _ in _entries(folder)]


def find(folder: str, name: str) -> list[str]:
    """Prefixes at or below `folder`, relative, that hold an object `name`; not looked below a find.

    Asked level by level, so that the parts of a step are never listed; appended lines (`*.d`) are not looked into.
    """
    found, level = [], ["."]
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        while level:
            held = list(threads.map(lambda under: exists(_joined(folder, under, name)), level))
            found += [under for under, is_held in zip(level, held, strict=True) if is_held]
            others = [under for under, is_held in zip(level, held, strict=True) if not is_held]
            below = threads.map(lambda under: _folders(_joined(folder, under)), others)
            level = [f"{under}/{n}".removeprefix("./") for under, n_s in zip(others, below, strict=True) for n in n_s]
    return found


def sizes(folder: str) -> dict[str, int]:
    """Path below `folder` -> bytes, of every object."""
    return {name: size for name, (size, _) in listing(folder).items()}


def listing(folder: str) -> dict[str, tuple[int, str]]:
    """Path below `folder` -> size and the store's checksum (empty where it has none), of every object."""
    files = _files(folder)
    prefix = _key(files, folder) + "/"
    found = files.find(folder, detail=True)
    return {
        key.removeprefix(prefix): (int(info["size"]), _checksum(info))
        for key, info in found.items()
        if key.startswith(prefix) and not key.endswith("/") and info["type"] == "file"
    }


def identity(url: str) -> str | None:
    """Size and checksum of an object as its store tells them; None where it tells no checksum."""
    info = _files(url).info(url)
    checksum = _checksum(info)
    return f"{info['size']} {checksum}" if checksum else None


def remove(url: str) -> None:
    """Delete an object, if it is there."""
    try:
        _files(url).rm_file(url)
    except FileNotFoundError:
        return


def withdraw(url: str) -> None:
    """Nothing: an object is made where it is to lie."""
    scheme_of(url)


def make_folder(url: str) -> None:
    """Nothing: a prefix is there with the first object below it."""
    scheme_of(url)


def put(source: str, url: str) -> None:
    """Upload a local file."""
    _files(url).put_file(source, url)


def get(url: str, target: str) -> None:
    """Download an object into a local file whose folder exists."""
    _files(url).get_file(url, target)


class _Ranges(io.RawIOBase):
    """The bytes of an object, a range at a time."""

    def __init__(self, size: int, ranged: Callable[[int, int], bytes]) -> None:
        self._size, self._ranged, self._at = size, ranged, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        data = self._ranged(self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _files(url: str) -> Any:
    """The file system of an address, the same for all threads of a process (fsspec keeps it, and knows of forks)."""
    scheme = scheme_of(url)
    package, extra = PACKAGES[scheme]
    try:
        import fsspec

        with _lock:
            files = fsspec.filesystem(scheme, **_options(package, fsspec.config.conf.get(scheme, {})))
    except ImportError as error:
        raise MissingExtraError(f"{scheme}:// paths need {package}: pip install 'semievol-ray[{extra}]'") from error
    if _is_s3(url):
        files.retries = 1  # storage repeats, and has to know of every try to tell its own object from another's
    return files


def _is_s3(url: str) -> bool:
    return PACKAGES[scheme_of(url)][0] == "s3fs"


def _options(package: str, configured: dict[str, Any]) -> dict[str, Any]:
    """No cached listings: other workers' objects have to be seen. No repeats within botocore either."""
    if package != "s3fs":
        return {"use_listings_cache": False}
    return {
        "use_listings_cache": False,
        "config_kwargs": {"retries": {"total_max_attempts": 1}, **configured.get("config_kwargs", {})},
    }


def _is_precondition_failed(error: OSError) -> bool:
    """412 from a server that does not say which condition failed: s3fs then raises EINVAL."""
    response = getattr(error.__cause__, "response", None) or {}
    status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    return status == 412 or (response.get("Error") or {}).get("Code") in ("PreconditionFailed", "412")


def _entries(folder: str) -> Iterator[tuple[str, str]]:
    """(name, file or directory) of what is right below a prefix."""
    files = _files(folder)
    key = _key(files, folder)
    try:
        found = files.ls(folder, detail=True)
    except FileNotFoundError:
        return
    for info in found:
        path = str(info["name"]).rstrip("/")
        if path != key:
            yield path.rsplit("/", 1)[-1], str(info["type"])


def _folders(folder: str) -> list[str]:
    return [name for name, kind in _entries(folder) if kind == "directory" and not name.endswith(".d")]


def _joined(folder: str, *names: str) -> str:
    return "/".join([folder, *(name for name in names if name != ".")])


def _key(files: Any, url: str) -> str:
    return str(files._strip_protocol(url)).rstrip("/")


def _checksum(info: dict[str, Any]) -> str:
    found = next((info[name] for name in ("ETag", "md5Hash", "crc32c", "etag") if info.get(name)), "")
    return str(found).strip('"')


def key(url: str) -> str:
    """An address without its scheme, as fsspec and pyarrow name the object: bucket/key."""
    return _key(_files(url), url)


def arrow_filesystem(url: str) -> Any:
    """The store of an address for libraries that take one of pyarrow's, through fsspec as everything else here."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(_files(url)))
