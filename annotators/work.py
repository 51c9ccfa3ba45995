"""Annotating many files by the same settings: here one after the other, or on a Ray cluster."""

import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import torch

from . import files, weights
from .errors import AnnotatorError, DependencyError, ParameterError
from .fit import Mode, Size
from .run import annotate
from .table import find

DTYPES = ("float32", "float16", "bfloat16")
_PACKAGE = Path(__file__).resolve().parent

Pair = tuple[Path, Path]
# A file that was annotated, and what was wrong with it.
Outcome = tuple[Path, str | None]


@dataclass(frozen=True)
class Job:
    """What is to become of files. annotator: an id; values: all its parameters; the others: as of
    `annotators.run`, and `extras`: whether what was found beside the picture is written too."""

    annotator: str
    values: Mapping[str, Any]
    size: Size | None = None
    resize: Mode = "crop"
    resolution: int | None = None
    seed: int = 0
    device: str | None = None
    dtype: str = "float32"
    extras: bool = False

    def is_done(self, source: Path, target: Path) -> bool:
        """Whether the hint is there, made by such a job of the file as it is now."""
        return files.is_done(target, self._stamp(source))

    def _stamp(self, source: Path) -> dict[str, Any]:
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "device"}
        return files.stamp(source, settings)


class Worker:
    """Annotates files for a job, with one network for all. Raises WeightsError where that is missing."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._annotator = find(job.annotator)
        net = weights.build(self._annotator)
        device = job.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._net = None if net is None else net.to(device, getattr(torch, job.dtype))

    def annotate(self, source: Path, target: Path) -> Outcome:
        """Write the hint of a file. What is wrong with one file is said and not raised."""
        job = self._job
        try:
            stamp = job._stamp(source)
            hints = annotate(
                self._annotator,
                files.read(source),
                job.values,
                net=self._net,
                # Each file has its own chances, whatever else is annotated with it.
                seed=job.seed + zlib.crc32(target.name.encode()),
                size=job.size,
                resize=job.resize,
                resolution=job.resolution,
            )
            files.write(hints, target, stamp, job.extras)
        except ParameterError:
            raise
        except (AnnotatorError, OSError, MemoryError, RuntimeError, cv2.error) as error:
            return source, str(error) or type(error).__name__
        return source, None


def in_turn(job: Job, pairs: Iterable[Pair]) -> Iterator[Outcome]:
    """Annotate files to their targets, one after the other."""
    worker = None
    for source, target in pairs:
        worker = worker or Worker(job)
        yield worker.annotate(source, target)


def by_ray(job: Job, pairs: Iterable[Pair]) -> Iterator[Outcome]:
    """Annotate files on a Ray cluster: the one that RAY_ADDRESS names, or else one of this machine alone.

    Each processor (with device cuda: each GPU) of the cluster gets a worker. Its machines need the pack's
    requirements, and see files, targets and weights under the same paths. Raises DependencyError without ray.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise DependencyError(
            "--workers ray needs Ray, which is not installed; run: python -m pip install ray"
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
        resource = "GPU" if (job.device or "").startswith("cuda") else "CPU"
        count = int(min(len(pairs), max(1, ray.cluster_resources().get(resource, 1))))
        remote: Any = ray.remote(Worker)
        share = {"num_gpus": 1} if resource == "GPU" else {"num_cpus": 1}
        pool = ActorPool([remote.options(**share).remote(job) for _ in range(count)])
        yield from pool.map_unordered(lambda worker, pair: worker.annotate.remote(*pair), pairs)
    finally:
        ray.shutdown()
