"""Every exception raised on purpose: what was wrong, where it came from, what to do.

Invariant: `UserError` and its children are printed as one paragraph with exit code 2, `RunStopped` and its
children with exit code 1 (`DeadlineReached`: 75); neither ever shows a traceback in the command line.
"""


class SemievolError(Exception):
    """Root of the tree. `exit_code` is what `semievol` returns when it reaches the top."""

    exit_code = 1


class UserError(SemievolError):
    """Something the user wrote or handed over has to change before the command can work."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration file or an override is wrong; names the file and the key."""


class DataError(UserError):
    """An input data file is wrong; names the file, the line and the column."""


class ModelError(UserError):
    """A model name cannot be resolved or its files are damaged; names the model and the ways to give one."""


class MissingExtraError(UserError):
    """An optional package is not installed; holds the pip line that installs it."""


class ClusterError(UserError):
    """The machines cannot do a run as they are (versions, storage, no answer); lists what is wrong and its remedy."""


class PlacementError(ClusterError):
    """The cluster cannot hold what was asked; holds the arithmetic."""


class StorageError(UserError):
    """A path cannot be read or written (missing, no permission, read-only, disk full); names the path."""


class DriftError(UserError):
    """A step in the run directory was made with other settings or inputs; holds the differences field by field."""


class RunInUseError(UserError):
    """Another live driver holds the lease of the run directory."""


class RunStopped(SemievolError):  # noqa: N818 - not a mistake of anyone's
    """The run ended before its last step, for a reason that is in the data or the machine; running again continues."""


class TooManyErrorsError(RunStopped):
    """More rows than `max_error_rate` allows ended as engine errors; holds the commonest reasons."""


class NothingAcceptedError(RunStopped):
    """No pseudo-label qualified, so that training on them is impossible; holds the counts."""


class EngineDiedError(RunStopped):
    """An engine process ended unexpectedly and could not be restarted."""


class DeadlineReached(RunStopped):
    """The deadline that was given has come, or comes before the next thing would end; says what is left."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: the same command, later


class AdapterError(RunStopped):
    """A saved adapter is empty, all zero, non-finite or of another shape than its configuration says."""
