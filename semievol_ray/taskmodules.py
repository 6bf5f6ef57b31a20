"""A user's own module of tasks, named module:ATTRIBUTE: found beside the configuration or installed, with its source.

Invariant: the source is what is hashed and, for a file, what is run, in the driver and in every worker alike.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from semievol_ray.errors import ConfigError


@dataclass(frozen=True)
class TaskModule:
    """Where a task was defined: a plain value that travels to any node.

    `folder` held the file in the driver; None for a module that is installed, which is imported by its name.
    """

    module: str
    attribute: str
    folder: str | None
    source: str

    @property
    def digest(self) -> str:
        """sha256 of the module's source; modules that it imports are not in it."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def name(self) -> str:
        """module:ATTRIBUTE, as a configuration has it."""
        return f"{self.module}:{self.attribute}"

    def value(self) -> object:
        """What the attribute holds. Raises ConfigError for a module that cannot run here or lacks the attribute."""
        module = _imported(self) if self.folder is None else _executed(self)
        if not hasattr(module, self.attribute):
            near = difflib.get_close_matches(self.attribute, vars(module), n=1)
            hint = f"; did you mean {self.module}:{near[0]}" if near else ""
            raise ConfigError(f"task {self.name}: the module has no {self.attribute!r}{hint}")
        found: object = getattr(module, self.attribute)
        return found


def find(name: str, base_folder: str) -> TaskModule:
    """The module of `[folder/]module:ATTRIBUTE`: a file below the folder, else an installed one. Raises ConfigError."""
    path, _, attribute = name.rpartition(":")
    above, _, module = path.rpartition("/")
    if not all(word.isidentifier() for word in [*module.split("."), attribute]):
        raise ConfigError(f"task {name!r}: a task of your own is written module:ATTRIBUTE, such as mytasks:TICKETS")
    folder = Path(base_folder, above).absolute()
    file = folder.joinpath(*module.split(".")).with_suffix(".py")
    if file.is_file():
        return TaskModule(module, attribute, str(folder), _read(file, name))
    origin = None if above else _installed(module)
    if origin is None or origin.suffix != ".py":
        raise ConfigError(
            f"task {name}: there is no {file.name} in {file.parent}, and no installed module of that name with Python "
            "source. Put the file beside the configuration, or install the package on every node."
        )
    return TaskModule(module, attribute, None, _read(origin, name))


def anchored(name: str, folder: str) -> str:
    """`module:ATTRIBUTE` with the folder of its file before it, so that it means the same from anywhere."""
    path, colon, _ = name.rpartition(":")
    file = Path(folder).absolute().joinpath(*path.split(".")).with_suffix(".py")
    return f"{Path(folder).absolute()}/{name}" if colon and "/" not in name and file.is_file() else name


def _installed(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _read(file: Path, name: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"task {name}: {file} cannot be read as text ({error}).") from None


def _imported(task: TaskModule) -> ModuleType:
    origin = _installed(task.module)
    if origin is None or _read(origin, task.name) != task.source:
        raise ConfigError(
            f"task {task.name}: on this node the module {task.module} is "
            f"{'not the one that the driver has' if origin else 'not installed'}. Install it alike on every node."
        )
    with _told(task, str(origin)):
        return importlib.import_module(task.module)


def _executed(task: TaskModule) -> ModuleType:
    """The module made from its source under a name of its own, once a process."""
    name = f"{task.module}__{task.digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(Path(str(task.folder)).joinpath(*task.module.split(".")).with_suffix(".py"))
    sys.modules[name] = module  # dataclasses in it look themselves up
    sys.path.insert(0, str(task.folder))
    try:
        with _told(task, module.__file__):
            exec(compile(task.source, module.__file__, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(task.folder))
    return module


@contextmanager
def _told(task: TaskModule, file: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"task {task.name}: {error}. In the workers a task's module is run from its source alone: what it imports "
            "has to be in the same file, or installed on every node."
        ) from error
    except Exception as error:  # the user's own code, so any of them
        lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [1])[-1]
        raise ConfigError(f"task {task.name}: {file}, line {line}: {type(error).__name__}: {error}") from error
