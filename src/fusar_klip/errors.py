"""The errors that a user can mend, and nothing else.

Every message is one sentence that says what is wrong and what mends it: the command line prints it
without a traceback and exits with 2. Whatever is not a `FusarKlipError` is our own fault (exit 1).
"""


class FusarKlipError(Exception):
    """Base of all errors that the user can mend."""


class SettingsError(FusarKlipError):
    """A configuration file, a `--set` or an option is wrong."""


class SceneError(FusarKlipError):
    """A SAR scene cannot be read, or cannot be placed on the ground."""


class DatasetError(FusarKlipError):
    """A data set folder is missing, unfinished, or belongs to something else."""


class ProviderError(FusarKlipError):
    """A language model cannot be asked: its server, its key, its name or its files are wrong."""


class BudgetError(FusarKlipError):
    """What is left to do would cost more than the budget allows."""


class CheckpointError(FusarKlipError):
    """A run folder or checkpoint file is missing, unfinished, or does not fit the model."""


class SearchError(FusarKlipError):
    """An index is missing or empty, or a query cannot be answered."""


class NotInThisVersionError(FusarKlipError):
    """The interface is fixed, but the stage behind it is not built yet."""
