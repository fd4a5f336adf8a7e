"""Every error that rgals raises on purpose, as one tree.

::

    RgalsError
    ├── InputError (ValueError)          a caller's mistake: an option, an argument, a shape
    │   └── OutputExistsError            the output is there already and may not be replaced
    ├── DataError                        a file or a folder that is not what it should be
    │   ├── ChecksumError                its bytes are not the bytes that were written
    │   ├── FormatVersionError           it was written by a newer rgals
    │   └── StaleCheckpointError         it belongs to another dataset or another configuration
    ├── NumericalError (ArithmeticError) a system without a finite solution, a rising objective
    ├── UnknownIdError (LookupError)     an id that the dictionary does not hold
    │   └── RowIndexError (IndexError)   a row number that the model does not hold
    ├── ClusterError                     a cluster that cannot be reached, or cannot do what was asked
    │   ├── WorkerLostError              workers were lost and their tasks cannot be run elsewhere
    │   ├── BlockLostError               the machine that held a block of data is gone
    │   └── CapacityError                what was asked for does not fit into memory, disk or object store
    └── MissingDependencyError           an optional package that is not installed

A message says where, what was expected, what was found, and the way out. The command line prints
it to standard error and exits with code 1; any other exception keeps its traceback.
"""

__all__ = [
    "BlockLostError",
    "CapacityError",
    "ChecksumError",
    "ClusterError",
    "DataError",
    "FormatVersionError",
    "InputError",
    "MissingDependencyError",
    "NumericalError",
    "OutputExistsError",
    "RgalsError",
    "RowIndexError",
    "StaleCheckpointError",
    "UnknownIdError",
    "WorkerLostError",
]


class RgalsError(Exception):
    """Base of every error that rgals raises on purpose."""


class InputError(RgalsError, ValueError):
    """A caller's mistake: an option, an argument or a shape that cannot be used."""


class OutputExistsError(InputError):
    """The output is there already, and replacing it was not asked for."""


class DataError(RgalsError):
    """A file or a folder that is not what it should be; the message names its path."""


class ChecksumError(DataError):
    """A file whose bytes are not the bytes that its manifest promises."""


class FormatVersionError(DataError):
    """A folder written in a format newer than this version of rgals reads."""


class StaleCheckpointError(DataError):
    """A checkpoint that belongs to another dataset or another configuration."""


class NumericalError(RgalsError, ArithmeticError):
    """A computation without a finite or without a falling result."""


class UnknownIdError(RgalsError, LookupError):
    """A user or item id that the dictionary does not hold."""


class RowIndexError(UnknownIdError, IndexError):
    """A user or item number that the model does not hold; an `IndexError` too, as callers of implicit expect."""


class ClusterError(RgalsError):
    """A cluster that cannot be reached, or cannot do what was asked of it."""


class WorkerLostError(ClusterError):
    """Workers were lost, and their tasks cannot be run elsewhere."""


class BlockLostError(ClusterError):
    """The machine that held a block of data is gone; training goes back to its last checkpoint."""


class CapacityError(ClusterError):
    """What was asked for does not fit into memory, disk or object store; the message says what would."""


class MissingDependencyError(RgalsError, ImportError):
    """An optional package that this operation needs and that is not installed."""
