"""Where the host keeps models."""

from pathlib import Path

import folder_paths

PACK = Path(__file__).resolve().parents[2]
MINI_WEIGHTS = PACK / "demo" / "weights"

# The host's kind of models for annotators: a folder of this name, and what extra_model_paths adds to it.
ANNOTATORS = "controlnet_annotators"


def register_model_folders() -> None:
    """Let every ControlNet loader, the host's own too, offer the mini ControlNets that the pack ships.

    Annotators have their own folder, and look into that of comfyui_controlnet_aux, if it is there.
    """
    folder_paths.add_model_folder_path("controlnet", str(MINI_WEIGHTS / "controlnet"))
    folder_paths.add_model_folder_path(ANNOTATORS, str(Path(folder_paths.models_dir, ANNOTATORS)))
    for packs in folder_paths.get_folder_paths("custom_nodes"):
        folder = Path(packs, "comfyui_controlnet_aux", "ckpts")
        if folder.is_dir():
            folder_paths.add_model_folder_path(ANNOTATORS, str(folder))


def controlnet_files() -> list[str]:
    return folder_paths.get_filename_list("controlnet")


def controlnet_path(name: str) -> str:
    return folder_paths.get_full_path_or_raise("controlnet", name)


def annotator_folders() -> list[str]:
    """Where weights of annotators lie; the first is where they are downloaded to."""
    return folder_paths.get_folder_paths(ANNOTATORS)
