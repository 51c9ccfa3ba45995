"""What is made of hints at some cost, kept across runs and controls while the pictures are the same."""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
from torch import Tensor

from .models import LOADING, models_kept_loaded

# By the network or VAE that made it, and by what tells a picture from all others.
_KEPT: WeakKeyDictionary[Any, OrderedDict[Hashable, dict[Any, Any]]] = WeakKeyDictionary()
_PICTURES_KEPT = 16


def kept_for(maker: Any, picture: Tensor, *also: Hashable) -> dict[Any, Any]:
    """Where what is made of this picture is kept while its maker lives: of the latest pictures only.

    also: what else it depends on.
    """
    content = hashlib.blake2b(picture.contiguous().cpu().numpy().tobytes()).digest()
    key = (tuple(picture.shape), content, *also)
    of_maker = _KEPT.setdefault(maker, OrderedDict())
    kept = of_maker.setdefault(key, {})
    of_maker.move_to_end(key)
    while len(of_maker) > _PICTURES_KEPT:
        of_maker.popitem(last=False)
    return kept


def encoded(vae: Any, image: Tensor) -> Tensor:
    """The latent of an IMAGE [B,H,W,C], encoded amid a sampling, or when it was first asked for."""
    kept = kept_for(vae, image)
    with LOADING:
        if "latent" not in kept:
            with models_kept_loaded():
                latent = vae.encode(image)
            kept["latent"] = latent.to(comfy.model_management.unet_offload_device())
    return kept["latent"]
