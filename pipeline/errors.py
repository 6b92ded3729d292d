"""The two kinds of failure a user meets, each one sentence: what was wrong, what is allowed, what to type next."""


class InputError(ValueError):
    """Something the user gave (a config, a file, a model) cannot be used; nothing was computed or written."""


class StageError(RuntimeError):
    """A stage had to stop; what it had finished is saved and the message says how to go on."""


class HeldError(StageError):
    """Another process is at this cell, or at one that it reads; nothing is wrong with it."""
