"""Everything that the pack needs of its host, and the only rooms that import it (comfy_api apart).

folders: where models lie. models: networks in the host's keeping. loading: from a file to a CONTROL_NET.
calls: what the host asks at a sampling step. steered: what all controls have in common; reusing: those that
need not be computed at each step; control, lllite, reference: those of the pack's own; host_control, foreign:
those that the host made; merged: several as one; tiles: parts of hints, as samplers cut them; overlap:
networks beside the UNet's encoder; recording: a merge that remembers its answers. sampling: the host's
samplers. annotators: their networks and downloads. encoding: training data by the host's VAE and CLIP;
training: ControlNets for the loaded model.
"""

from .annotators import ANNOTATOR_DTYPES, annotation_progress, annotator_network, blocked, fetch_annotator
from .control import Control
from .encoding import HostEncoders, picture_decoder
from .folders import (
    MINI_WEIGHTS,
    PACK,
    Written,
    annotator_folders,
    controlnet_files,
    controlnet_path,
    data_folder,
    input_file,
    input_files,
    new_controlnet,
    output_file,
    output_folder,
    register_model_folders,
)
from .foreign import union_types
from .host_control import HostControl
from .loading import load_control, load_native
from .merged import MergedControl
from .models import PRECISIONS, Resident, base_config, device_pace, diffusion_model, result_device
from .recording import Record, RecordingControl
from .reference import ReferenceControl
from .reusing import ResidualControl
from .sampling import SAMPLERS, SCHEDULERS, noise_levels, sample_first, sigma_at
from .steered import Steered
from .training import (
    TrainingProgress,
    latent_scale,
    new_control,
    prediction_of,
    trained_control,
    training_base,
    training_config,
    training_mode,
)

__all__ = [
    "ANNOTATOR_DTYPES",
    "MINI_WEIGHTS",
    "PACK",
    "PRECISIONS",
    "SAMPLERS",
    "SCHEDULERS",
    "Control",
    "HostControl",
    "HostEncoders",
    "MergedControl",
    "Record",
    "RecordingControl",
    "ReferenceControl",
    "Resident",
    "ResidualControl",
    "Steered",
    "TrainingProgress",
    "Written",
    "annotation_progress",
    "annotator_folders",
    "annotator_network",
    "base_config",
    "blocked",
    "controlnet_files",
    "controlnet_path",
    "data_folder",
    "device_pace",
    "diffusion_model",
    "fetch_annotator",
    "input_file",
    "input_files",
    "latent_scale",
    "load_control",
    "load_native",
    "new_control",
    "new_controlnet",
    "noise_levels",
    "output_file",
    "output_folder",
    "picture_decoder",
    "prediction_of",
    "register_model_folders",
    "result_device",
    "sample_first",
    "sigma_at",
    "trained_control",
    "training_base",
    "training_config",
    "training_mode",
    "union_types",
]
