"""Every error that receptance raises on purpose, drawn as a tree.

ReceptanceError
├── ConfigError        a recipe, an option or an argument that cannot be obeyed
├── CheckpointError    a weight file that is damaged, hostile, mislabelled or of another generation
├── TokenizerError     a vocabulary that cannot be read, or text and ids that it cannot express
├── DataError          a token store or a source text that cannot be read
├── KernelError        an implementation that was asked for by name and cannot serve the call
└── TrainingError      a run that cannot go on, such as a loss that is not finite
"""


class ReceptanceError(Exception):
    """The root of all errors raised on purpose; the command line prints its text without a traceback."""


class ConfigError(ReceptanceError, ValueError):
    """A recipe, an option or an argument that cannot be obeyed."""


class CheckpointError(ReceptanceError):
    """A weight file that is damaged, hostile, mislabelled or of another generation."""


class TokenizerError(ReceptanceError, ValueError):
    """A vocabulary that cannot be read, or text and ids that it cannot express."""


class DataError(ReceptanceError):
    """A token store or a source text that cannot be read."""


class KernelError(ReceptanceError):
    """An implementation that was asked for by name and cannot serve the call."""


class TrainingError(ReceptanceError):
    """A run that cannot go on, such as a loss that is not finite."""
