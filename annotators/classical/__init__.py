"""Annotators that need no weights: OpenCV, scikit-image, numpy and torch."""
