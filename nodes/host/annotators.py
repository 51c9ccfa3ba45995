"""The networks of annotators in the host's keeping, their downloads, and the progress of a run."""

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_execution.graph_utils import ExecutionBlocker

from ...annotators import weights
from ...annotators.registry import Annotator, WeightFile
from .folders import annotator_folders
from .models import Resident

# How annotators may compute.
ANNOTATOR_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# So many networks stay in memory, those used last; the host moves them between devices meanwhile.
_KEPT = 4
_networks: OrderedDict[tuple, Resident[torch.nn.Module]] = OrderedDict()


def annotator_network(annotator: Annotator, dtype: str = "fp32") -> Resident[torch.nn.Module] | None:
    """An annotator's network, of this dtype (a key of ANNOTATOR_DTYPES); None if it has none.

    It is kept for the next time, and read anew when its files changed. Raises WeightsError.
    """
    if annotator.build is None:
        return None
    device = comfy.model_management.get_torch_device()
    paths = weights.locate(annotator, annotator_folders())
    files = tuple((str(path), os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in paths.values())
    # Annotators of one network share it.
    key = (annotator.build, files, dtype, device)
    if key not in _networks:
        net = weights.build(annotator, annotator_folders())
        assert net is not None
        offload = comfy.model_management.unet_offload_device()
        _networks[key] = Resident(net.to(ANNOTATOR_DTYPES[dtype]), device, offload)
    _networks.move_to_end(key)
    while len(_networks) > _KEPT:
        _networks.popitem(last=False)
    return _networks[key]


def fetch_annotator(annotator: Annotator) -> None:
    """Download the weights of an annotator that are nowhere yet, with the host's progress bar.

    The user can cancel it. Raises WeightsError.
    """
    bars: dict[WeightFile, Callable[[int, int], None]] = {}

    def report(weight: WeightFile, came: int, expected: int) -> None:
        bars.setdefault(weight, annotation_progress())(came, expected or came)

    folders = annotator_folders()
    weights.fetch(annotator, folders[0], report, folders=folders)


def annotation_progress() -> Callable[[int, int], None]:
    """A progress bar, called with what is done and the whole. Ends the run if the user cancelled."""
    bar: comfy.utils.ProgressBar | None = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)

    return report


def blocked(why: str) -> Any:
    """An output that nothing may use: the host does not run a node that is connected to it, and says why."""
    return ExecutionBlocker(why)
