"""The console command `transrec`: one module for each of its commands, and what their options have in common."""


class OptionError(ValueError):
    """An option that is unknown, or that does not fit the others."""
