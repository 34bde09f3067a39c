"""The errors that a user can fix, and nothing else.

Every message is one sentence that says what is wrong and how to fix it. The command line prints it without a
traceback and exits with 2. Any other exception is an internal error (exit status 1).
"""


class FusarKlipError(Exception):
    """Base of all errors that the user can fix."""


class SettingsError(FusarKlipError):
    """A configuration file, a `--set` or an option is wrong."""


class SceneError(FusarKlipError):
    """A SAR scene cannot be read, or cannot be georeferenced."""


class DatasetError(FusarKlipError):
    """A data set folder or image file is missing, incomplete, damaged, or of another kind."""


class ProviderError(FusarKlipError):
    """A language model cannot be used: its server, its key, its name or its files are wrong."""


class BudgetError(FusarKlipError):
    """The remaining requests would cost more than the budget allows."""


class CheckpointError(FusarKlipError):
    """A run folder or checkpoint file is missing, incomplete, or does not fit the model."""


class SearchError(FusarKlipError):
    """An index is missing or empty, or a query cannot be answered."""


class NotInThisVersionError(FusarKlipError):
    """The verb is reserved, but its stage is not implemented yet."""
