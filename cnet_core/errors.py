"""The exceptions of the pack. Each message says what was given, what was expected, and the mend."""


class CNetError(ValueError):
    """Root of every error that the pack raises on purpose."""


class CheckpointError(CNetError):
    """A file is not what its place needs: unreadable, truncated, of another kind, or with wrong tensors."""


class BaseMismatchError(CNetError):
    """A control network was made for another base model than the one it is applied to."""


class HintError(CNetError):
    """A control image cannot serve as a hint: wrong channels, size, batch or values."""


class ControlError(CNetError):
    """A control's settings make no sense: strength, range, or a merge of controls that do not go together."""


class DataError(CNetError):
    """Training data is not what training needs: files missing, damaged or in pairs that do not fit."""


class TrainingError(CNetError):
    """A training cannot start, go on, or write what it has."""
