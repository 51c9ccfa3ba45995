"""Everything that the pack needs of its host, and the only rooms that import it (comfy_api apart).

folders: where models lie. models: networks in the host's keeping. loading: from a file to a CONTROL_NET.
controls: the objects that the host calls at every sampling step. recording: one that remembers its answers.
sampling: the host's samplers.
"""

from .controls import Control, HostControl, MergedControl, Steered
from .folders import MINI_WEIGHTS, PACK, controlnet_files, controlnet_path, register_model_folders
from .loading import load_control, load_native
from .models import PRECISIONS, Resident, base_config, diffusion_model, result_device
from .recording import Record, RecordingControl
from .sampling import SAMPLERS, SCHEDULERS, noise_levels, sample_first, sigma_at

__all__ = [
    "MINI_WEIGHTS",
    "PACK",
    "PRECISIONS",
    "SAMPLERS",
    "SCHEDULERS",
    "Control",
    "HostControl",
    "MergedControl",
    "Record",
    "RecordingControl",
    "Resident",
    "Steered",
    "base_config",
    "controlnet_files",
    "controlnet_path",
    "diffusion_model",
    "load_control",
    "load_native",
    "noise_levels",
    "register_model_folders",
    "result_device",
    "sample_first",
    "sigma_at",
]
