"""The exceptions of the annotators. Each message says what was given, what was expected, and the mend."""


class AnnotatorError(ValueError):
    """Root of every error that the annotators raise on purpose."""


class ParameterError(AnnotatorError):
    """An unknown annotator or parameter, or a value outside its range."""


class WeightsError(AnnotatorError):
    """A weight file is missing, damaged, or not what the annotator needs."""


class DependencyError(AnnotatorError):
    """A library that this annotator needs beside the pack's own is missing, or of a version that lacks it."""


class PoseError(AnnotatorError):
    """Keypoints that are none, or that a pose tool cannot work with."""
