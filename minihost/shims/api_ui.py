"""`comfy_api.latest.ui`: what a node shows, and saving pictures with the workflow in them."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import folder_paths
from .api_io import FolderType


class SavedResult(dict):
    """Where a file was saved."""

    def __init__(self, filename: str, subfolder: str, type: FolderType):
        super().__init__(filename=filename, subfolder=subfolder, type=type.value)


class SavedImages:
    """Saved pictures, to be shown on the node."""

    def __init__(self, results: list[SavedResult], is_animated: bool = False):
        self.results, self.is_animated = results, is_animated

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.results, **({"animated": (True,)} if self.is_animated else {})}


def png_text(hidden: Any) -> PngInfo:
    """The text chunks `prompt` and `workflow`, from which a host opens a picture as its workflow."""
    text = PngInfo()
    if hidden is not None and hidden.prompt:
        text.add_text("prompt", json.dumps(hidden.prompt))
    if hidden is not None and hidden.extra_pnginfo:
        for key, value in hidden.extra_pnginfo.items():
            text.add_text(key, json.dumps(value))
    return text


class ImageSaveHelper:
    """Saves pictures as the host does."""

    @staticmethod
    def save_images(
        images: torch.Tensor,
        filename_prefix: str,
        folder_type: FolderType,
        cls: Any,
        compress_level: int = 4,
    ) -> list[SavedResult]:
        """Write images [B,H,W,C] in 0..1 as 8 bit PNG files `prefix_00001_.png` and on, never over another.

        Values are cut, not rounded, to 8 bits: the host does the same, and pictures shall be equal.
        """
        height, width = images[0].shape[:2]
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_directory_by_type(folder_type.value), width, height
        )
        saved = []
        for number, image in enumerate(images):
            pixels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
            file = f"{name.replace('%batch_num%', str(number))}_{counter:05}_.png"
            text = png_text(getattr(cls, "hidden", None))
            Image.fromarray(pixels).save(Path(folder, file), pnginfo=text, compress_level=compress_level)
            saved.append(SavedResult(file, subfolder, folder_type))
            counter += 1
        return saved

    @staticmethod
    def get_save_images_ui(
        images: torch.Tensor, filename_prefix: str, cls: Any, compress_level: int = 4
    ) -> SavedImages:
        """Save into the output folder and show."""
        return SavedImages(
            ImageSaveHelper.save_images(images, filename_prefix, FolderType.output, cls, compress_level)
        )


class PreviewImage:
    """Pictures [B,H,W,C] shown on the node, kept in the temporary folder."""

    def __init__(self, image: torch.Tensor, animated: bool = False, cls: Any = None, **kwargs: Any):
        letters = "".join(random.Random().choices(string.ascii_lowercase, k=5))
        self.values = ImageSaveHelper.save_images(
            image, f"ComfyUI_temp_{letters}", FolderType.temp, cls, compress_level=1
        )
        self.animated = animated

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (self.animated,)}


class PreviewMask(PreviewImage):
    """Masks [B,H,W] shown as grey pictures."""

    def __init__(self, mask: torch.Tensor, animated: bool = False, cls: Any = None, **kwargs: Any):
        grey = mask.reshape(-1, *mask.shape[-2:], 1).expand(-1, -1, -1, 3)
        super().__init__(grey, animated, cls, **kwargs)


class PreviewText:
    """Text shown on the node."""

    def __init__(self, value: str, **kwargs: Any):
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}
