"""The base of all errors that a user can mend."""

from __future__ import annotations


class AnomalyNCDError(Exception):
    """A cause that the user can mend; the message names the file or key and says what to do.

    Commands show it as one line. Any other exception but OSError is a bug and keeps its traceback.
    """
