"""Where the host keeps models."""

from pathlib import Path

import folder_paths

PACK = Path(__file__).resolve().parents[2]
MINI_WEIGHTS = PACK / "demo" / "weights"


def register_model_folders() -> None:
    """Let every ControlNet loader, the host's own too, offer the mini ControlNets that the pack ships."""
    folder_paths.add_model_folder_path("controlnet", str(MINI_WEIGHTS / "controlnet"))


def controlnet_files() -> list[str]:
    return folder_paths.get_filename_list("controlnet")


def controlnet_path(name: str) -> str:
    return folder_paths.get_full_path_or_raise("controlnet", name)
