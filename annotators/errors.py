"""The exceptions of the annotators. Each message says what was given, what was expected, and the mend."""

import sys
from importlib.metadata import PackageNotFoundError, distribution


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


def install(package: str) -> str:
    """The command that installs a package for this Python, which may be one of uv's, without pip."""
    # PowerShell takes what begins with a quote for a text.
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    try:
        # Its files are looked for, not the module: setuptools changes distutils for whoever looks for that.
        distribution("pip")
    except PackageNotFoundError:
        return f'python -m uv pip install --python {python} "{package}"'
    return f'{python} -m pip install "{package}"'
