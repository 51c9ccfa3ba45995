"""Annotating many files by the same settings: here one after the other, or on a Ray cluster."""

import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from . import files, weights
from .errors import AnnotatorError, DependencyError, ParameterError, install
from .fit import Mode, Size
from .networks import PIXELS
from .run import annotate
from .table import find

DTYPES = ("float32", "float16", "bfloat16")
_PACKAGE = Path(__file__).resolve().parent
# So many pictures are annotated by one call at most, fewer where they have more pixels than PIXELS.
_TOGETHER = 16

Pair = tuple[Path, Path]
# A file that was annotated, and what was wrong with it.
Outcome = tuple[Path, str | None]

# What is said of a file, for the next may be well; and what of it is wrong with every file.
_OF_A_FILE = (AnnotatorError, OSError, MemoryError, RuntimeError, cv2.error)
_OF_ALL = (ParameterError, DependencyError)


@dataclass(frozen=True)
class Job:
    """What is to become of files. annotator: an id; values: all its parameters; the others: as of
    `annotators.run`, and `extras`: whether what was found beside the picture is written too; `sequence`: how
    many files are one sequence, annotated in one call or not at all, 0 where each is on its own."""

    annotator: str
    values: Mapping[str, Any]
    size: Size | None = None
    resize: Mode = "crop"
    resolution: int | None = None
    seed: int = 0
    device: str | None = None
    dtype: str = "float32"
    extras: bool = False
    sequence: int = 0

    def left(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Those whose hint is not there, made by such a job of the file as it is now; of a sequence all or
        none."""
        left = [(source, target) for source, target in pairs if not self._is_done(source, target)]
        return list(pairs) if left and self.sequence else left

    def _is_done(self, source: Path, target: Path) -> bool:
        return files.is_done(target, self._stamp(source))

    def _stamp(self, source: Path) -> dict[str, Any]:
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "device"}
        return files.stamp(source, settings)


@dataclass
class _Read:
    """A picture [1,H,W,C] that was read, where its hint goes, and what decided about it then."""

    source: Path
    target: Path
    image: Tensor
    stamp: Mapping[str, Any]


class Worker:
    """Annotates files for a job, with one network for all. Raises WeightsError where that is missing, and
    AnnotatorError where the device is."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._annotator = find(job.annotator)
        self._net = None
        if self._annotator.build is not None:
            device = _device(job.device)
            net = weights.build(self._annotator)
            assert net is not None
            self._net = net.to(device, getattr(torch, job.dtype))

    def annotate(self, pairs: Iterable[Pair]) -> Iterator[Outcome]:
        """Write the hints of files, those of one size that follow each other together.

        What is wrong with one file is said and not raised, except in a sequence.
        """
        together: list[_Read] = []
        for source, target in pairs:
            try:
                image = files.read(source)
                one = _Read(source, target, image, self._job._stamp(source))
            except _OF_A_FILE as error:
                if self._job.sequence:
                    raise AnnotatorError(f"{source}: {_said(error)} Its sequence needs all.") from error
                yield source, _said(error)
                continue
            if together and not self._belongs(one, together):
                yield from self._made(together)
                together = []
            together.append(one)
        if together:
            yield from self._made(together)

    def annotated(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """`annotate`, for a caller on another machine."""
        return list(self.annotate(pairs))

    def _belongs(self, one: _Read, together: Sequence[_Read]) -> bool:
        """Whether a picture may be annotated with these. Raises AnnotatorError if it must and cannot."""
        shape, others = one.image.shape[1:], together[0].image.shape[1:]
        if self._job.sequence:
            if shape != others:
                raise AnnotatorError(
                    f"{one.source} is {_described(shape)}, but {together[0].source} {_described(others)}: "
                    "with span=sequence all pictures are one sequence of one size. Annotate each sequence by "
                    "a run of its own, or leave span=sequence away."
                )
            return True
        # Each file has its own chances, whatever else is annotated with it.
        if shape != others or self._annotator.seedable or len(together) == _TOGETHER:
            return False
        height, width = self._job.size or (0, 0)
        return max(shape[0] * shape[1], height * width) * (len(together) + 1) <= PIXELS

    def _made(self, together: Sequence[_Read]) -> Iterator[Outcome]:
        """Write the hints of pictures of one size."""
        job = self._job
        try:
            hints = annotate(
                self._annotator,
                torch.cat([one.image for one in together]),
                job.values,
                net=self._net,
                seed=job.seed + zlib.crc32(os.fsencode(together[0].target.name)),
                size=job.size,
                resize=job.resize,
                resolution=job.resolution,
            )
        except _OF_ALL:
            raise
        except _OF_A_FILE as error:
            if job.sequence:
                raise AnnotatorError(f"the sequence could not be annotated: {_said(error)}") from error
            if len(together) == 1:
                yield together[0].source, _said(error)
                return
            # One of them is to blame.
            for one in together:
                yield from self._made([one])
            return
        if job.sequence:
            # So that a run which ends early leaves none of an older range that counts as done.
            for one in together:
                files.forget(one.target)
        for i, one in enumerate(together):
            try:
                files.write(hints, i, one.target, one.stamp, job.extras)
            except (OSError, cv2.error) as error:
                yield one.source, _said(error)
            else:
                yield one.source, None


def in_turn(job: Job, pairs: Sequence[Pair]) -> Iterator[Outcome]:
    """Annotate files to their targets, one after the other."""
    if pairs:
        yield from Worker(job).annotate(pairs)


def by_ray(job: Job, pairs: Sequence[Pair]) -> Iterator[Outcome]:
    """Annotate files on a Ray cluster: the one that RAY_ADDRESS names, or else one of this machine alone.

    Each processor of the cluster gets a worker, or each GPU where the annotator has a network and the cluster
    a GPU. Its machines need the pack's requirements, and see files, targets and weights under the same paths.
    Raises DependencyError without ray.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise DependencyError(
            f"--workers ray needs Ray, which is not installed; run: {install('ray>=2.9')}"
        ) from error
    pairs = [(source.resolve(), target.resolve()) for source, target in pairs]
    if not pairs:
        return
    weights.locate(find(job.annotator))
    folders = os.pathsep.join(str(folder.resolve()) for folder in weights.default_folders())
    ray.init(
        ignore_reinit_error=True,
        log_to_driver=False,
        logging_level=logging.WARNING,
        include_dashboard=False,
        runtime_env={"py_modules": [str(_PACKAGE)], "env_vars": {weights.FOLDERS_VARIABLE: folders}},
    )
    try:
        cluster = ray.cluster_resources()
        resource = needed(job, cluster)
        count = int(max(1, cluster.get(resource, 1)))
        # All workers have some.
        each = len(pairs) if job.sequence else min(_TOGETHER, -(-len(pairs) // count))
        parts = [pairs[i : i + each] for i in range(0, len(pairs), each)]
        remote: Any = ray.remote(Worker)
        share = {"num_gpus": 1} if resource == "GPU" else {"num_cpus": 1}
        pool = ActorPool([remote.options(**share).remote(job) for _ in range(min(count, len(parts)))])
        for outcomes in pool.map_unordered(lambda worker, part: worker.annotated.remote(part), parts):
            yield from outcomes
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, AnnotatorError) else error) from None
    except ray.exceptions.RayActorError as error:
        why = str(error).strip().splitlines()[-1]
        raise AnnotatorError(f"a worker of the Ray cluster ended: {why}") from None
    finally:
        ray.shutdown()


def needed(job: Job, cluster: Mapping[str, float]) -> str:
    """Which of a Ray cluster's resources a worker needs one of: "GPU" or "CPU". Raises AnnotatorError if it
    lacks the device that the job asks for."""
    if find(job.annotator).build is None:
        return "CPU"
    there = cluster.get("GPU", 0) >= 1
    if job.device is None:
        return "GPU" if there else "CPU"
    if not job.device.startswith("cuda"):
        return "CPU"
    if not there:
        raise AnnotatorError(
            f"--device {job.device} needs a GPU, and the Ray cluster has none; leave --device away, or start "
            "Ray with GPUs."
        )
    return "GPU"


def _device(name: str | None) -> torch.device:
    """The device of this name, by default cuda where there is one. Raises AnnotatorError if it is missing."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    # An assertion where torch was built without it.
    except (RuntimeError, AssertionError) as error:
        raise AnnotatorError(
            f"--device {name} cannot be used here: {_said(error)} Leave --device away, or name another."
        ) from error


def _described(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{width}x{height} with {channels} channels"


def _said(error: BaseException) -> str:
    """What an error says, as a sentence in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".") + "."
