"""Errors a user can act on: one readable line and an exit code that tells the cause.

Every message names the value at fault, what is allowed, and what to do.
"""

from __future__ import annotations


class OpdcliffError(Exception):
    """Base of all errors printed as one line; `exit_code` is what the process returns."""

    exit_code = 1


class ConfigError(OpdcliffError):
    """A setting is outside its range, unknown, or contradicts another one."""

    exit_code = 2


class DataError(OpdcliffError):
    """A data file is missing, has the wrong schema, or yields too little."""

    exit_code = 3


class ModelError(OpdcliffError):
    """A model cannot be loaded safely, or student, teacher and base do not fit together."""

    exit_code = 4


class RecordError(OpdcliffError):
    """A run record is damaged, locked by another process, or of another experiment."""

    exit_code = 5


class TheoryDomainError(OpdcliffError, ValueError):
    """An argument of a formula lies outside its domain."""

    exit_code = 6


class StudyIncompleteError(OpdcliffError):
    """Some cells of a study have no terminal result."""

    exit_code = 7


class EngineError(OpdcliffError):
    """A rank of a run on several processes failed or died."""

    exit_code = 8


class PreemptedError(OpdcliffError):
    """The process was asked to stop (SIGTERM); what it had done is kept, and it can go on."""

    exit_code = 9


class LimitReachedError(PreemptedError):
    """What comes next could cost more than was allowed; what was done is kept, and it can go on."""


class RefutedError(OpdcliffError):
    """A locked prediction did not hold."""

    exit_code = 10


class InconclusiveError(OpdcliffError):
    """A locked prediction was neither confirmed nor refuted."""

    exit_code = 11


class InadmissibleError(OpdcliffError):
    """There is nothing to verify, or it does not fit together: no verdict is given."""

    exit_code = 12


class TamperedError(OpdcliffError):
    """A locked file or a record is not what it was."""

    exit_code = 13


class DoesNotFitError(OpdcliffError):
    """A run needs more memory per rank than there is."""

    exit_code = 14


class NotReproducedError(OpdcliffError):
    """Numbers of a study run here are outside the tolerance around the committed ones."""

    exit_code = 15
