"""Errors whose message is one line meant for the person at the keyboard."""


class PpedgeError(Exception):
    """Base of every error ppedge raises on purpose; ``str(error)`` is one clear line."""


class HistoryError(PpedgeError):
    """A history file, or a record in it, could not be read."""


class PlugError(PpedgeError):
    """A plug is missing, damaged, unsafe, or made for another model."""


class ModelError(PpedgeError):
    """A language model could not be loaded or run."""


class StoreError(PpedgeError):
    """A persona store could not be opened, read or changed."""
