"""Every error that receptance raises on purpose, drawn as a tree.

ReceptanceError
├── ConfigError        a recipe, an option or an argument that cannot be obeyed
├── CheckpointError    a weight file that is damaged, hostile, mislabelled or of another generation
├── TokenizerError     a vocabulary that cannot be read, or text and ids that it cannot express
├── DataError          a token store or a source text that cannot be read
├── KernelError        an implementation that was asked for by name and cannot serve the call
└── TrainingError      a run that cannot go on
    └── DivergenceError    a step that would spoil the weights, such as one whose loss is not finite
"""

LONGEST_TEXT = 2000  # characters


class ReceptanceError(Exception):
    """The root of all errors raised on purpose; the command line prints its text without a traceback.

    Texts quote names and numbers from files of strangers. So what could command a terminal is written as an
    escape, and a text that is too long loses its middle.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(_printable(text))


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
    """A run that cannot go on."""


class DivergenceError(TrainingError):
    """A step that would spoil the weights, such as one whose loss is not finite."""


def _printable(text: str) -> str:
    text = _shortened(text)  # before and after, because an escape is longer than what it stands for
    return _shortened(
        "".join(
            character
            if character.isprintable() or character == "\n"
            else character.encode("unicode_escape").decode("ascii")
            for character in text
        )
    )


def _shortened(text: str) -> str:
    half = LONGEST_TEXT // 2 - 2
    return text if len(text) <= LONGEST_TEXT else f"{text[:half]} … {text[-half:]}"
