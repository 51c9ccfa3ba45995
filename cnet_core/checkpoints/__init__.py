"""Checkpoint files: read, told apart by content, converted, loaded and saved."""

from .bases import base_name, check_base
from .control_file import ControlFile
from .detect import identify, refuse
from .family import Family, OpenedFile
from .inspect import Inspection, inspect
from .load import load_controlnet, load_unet, open_control, save_controlnet, save_network, save_unet
from .mini import mini_autoencoder, mini_text_encoder, mini_unet_config
from .read import StateFile, read_state_dict
from .shapes import controlnet_config, unet_config

__all__ = [
    "ControlFile",
    "Family",
    "Inspection",
    "OpenedFile",
    "StateFile",
    "base_name",
    "check_base",
    "controlnet_config",
    "identify",
    "inspect",
    "load_controlnet",
    "load_unet",
    "mini_autoencoder",
    "mini_text_encoder",
    "mini_unet_config",
    "open_control",
    "read_state_dict",
    "refuse",
    "save_controlnet",
    "save_network",
    "save_unet",
    "unet_config",
]
