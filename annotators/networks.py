"""The network classes of controlnet-aux, without what importing it does besides.

Its packages change timm's registry and the environment, warn, and fail where mediapipe is too new. The
modules that hold networks do none of it, so they alone are imported; the packages above them are not run.
"""

import sys
import threading
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType

import torch

_ROOT = "controlnet_aux"
_lock = threading.Lock()

# Pixels that go through an annotator at once: about 16 pictures of 512 x 512 where a GPU is filled by it or
# nothing is held for long. On a CPU most networks are fastest with one: what they compute stays in the
# caches; so it is without a network, with one of 512 x 512.
PIXELS = 2**22
PIXELS_ON_A_CPU = 2**16
PIXELS_WITHOUT_A_NETWORK = 2**18


def pixels_at_once(device: torch.device, on_a_cpu: int = PIXELS_ON_A_CPU) -> int:
    """How many pixels go through a network on this device at once."""
    return on_a_cpu if device.type == "cpu" else PIXELS


def network_module(name: str) -> ModuleType:
    """The module of this name below controlnet_aux, such as "hed" or "open_pose.model"."""
    *packages, _ = f"{_ROOT}.{name}".split(".")
    paths = [".".join(packages[: depth + 1]) for depth in range(len(packages))]
    with _lock:
        empty = [path for path in paths if path not in sys.modules]
        try:
            for path in empty:
                spec = find_spec(path)
                if spec is None:
                    raise ModuleNotFoundError(f"No module named {path!r}; install the pack's requirements.")
                sys.modules[path] = module_from_spec(spec)
            return import_module(f"{_ROOT}.{name}")
        finally:
            # Whoever else imports these packages gets them whole.
            for path in empty:
                sys.modules.pop(path, None)
