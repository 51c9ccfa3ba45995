"""Checkpoint files: read, told apart by content, converted, loaded and saved."""

from .bases import base_name, check_base
from .control_file import ControlFile
from .detect import identify, refuse
from .family import Family, OpenedFile
from .load import describe, load_controlnet, load_unet, open_control, save_controlnet, save_unet
from .read import StateFile, read_state_dict
from .shapes import controlnet_config, unet_config

__all__ = [
    "ControlFile",
    "Family",
    "OpenedFile",
    "StateFile",
    "base_name",
    "check_base",
    "controlnet_config",
    "describe",
    "identify",
    "load_controlnet",
    "load_unet",
    "open_control",
    "read_state_dict",
    "refuse",
    "save_controlnet",
    "save_unet",
    "unet_config",
]
