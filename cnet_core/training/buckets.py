"""Aspect buckets: the sizes to which pictures of all shapes are cropped, so that batches can be stacked."""

import math

from ..errors import DataError

# Longer shapes lose more to the crop than they give.
LONGEST = 3.0


def buckets(resolution: int, multiple: int) -> list[tuple[int, int]]:
    """(width, height) of every bucket, widest first: multiples of `multiple`, area at most resolution
    squared, aspects up to 3:1 either way.

    resolution: side of the square one in pixels. Raises DataError unless it is a multiple itself, and
    `multiple` one of 8, the pixels of a latent.
    """
    if multiple < 8 or multiple % 8:
        raise DataError(f"the sides' multiple is {multiple}; expected 8, 16, or another multiple of 8.")
    if resolution < multiple or resolution % multiple:
        down = max(multiple, resolution // multiple * multiple)
        raise DataError(
            f"the resolution {resolution} is not a multiple of {multiple}, which this base model needs; "
            f"choose {down} or {down + multiple}."
        )
    found = set()
    for width in range(multiple, math.ceil(resolution * LONGEST**0.5 / multiple) * multiple + 1, multiple):
        height = resolution**2 // width // multiple * multiple
        if height and max(width / height, height / width) <= LONGEST:
            found |= {(width, height), (height, width)}
    return sorted(found, key=lambda size: (-size[0] / size[1], -size[0] * size[1]))


def bucket_of(width: int, height: int, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The bucket of the nearest aspect, and of those the largest."""
    aspect = math.log(width / height)
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - aspect), -size[0] * size[1]))
