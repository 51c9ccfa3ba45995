"""A cache as what training reads: batches that depend on their number and a seed alone."""

import math
from functools import lru_cache, partial

import torch
from torch import Tensor

from ..control.hint import luminance
from ..errors import BaseMismatchError, DataError
from ..networks.blocks import timestep_embedding
from ..networks.config import UNetConfig
from .batches import Batch
from .cache import Cache, Example
from .order import batches_of_round, mixed

# SDXL's vector condition is the pooled text and six numbers of so many channels each.
_SIZE_CHANNELS = 256


class CachedSource:
    """Batches of a cache for one base model.

    latent_scale: the factor from the cached latents to the UNet's, by default the cache's own. hint_channels:
    3, or 1 for the luminance. Raises BaseMismatchError if the cache was made with another family's VAE or
    CLIP, DataError if there is no latent scale.
    """

    def __init__(
        self, cache: Cache, base: UNetConfig, latent_scale: float | None = None, hint_channels: int = 3
    ):
        if not len(cache):
            raise DataError(f"{cache.folder} holds no examples.")
        if hint_channels not in (1, 3):
            raise DataError(f"the ControlNet reads {hint_channels} hint channels; pictures have 3 or 1.")
        scale = cache.manifest.latent_scale if latent_scale is None else latent_scale
        if scale is None:
            raise DataError(
                f"{cache.folder} does not say the latents' scale: it was cached with a VAE in ComfyUI, for a "
                "base whose own cannot be told. Train on it there, or make it by `python -m "
                "cnet_core.training cache --encoders FOLDER`."
            )
        self.cache, self.base, self.scale = cache, base, scale
        self.hint_channels = hint_channels
        self.examples = cache.manifest.examples
        self._check_family()
        # Only texts of one length go together: others would be repeated to their least common multiple.
        lengths = cache.text_lengths
        buckets = [(e.width, e.height, lengths[e.text]) for e in self.examples]
        self._round = lru_cache(4)(partial(batches_of_round, buckets))

    def _check_family(self) -> None:
        latents = self.cache.latent(self.examples[0])[0].shape[0]
        context, pooled = self.cache.text(self.cache.manifest.empty)
        adm = self.base.adm_in_channels
        found = {"latent channels": latents, "channels of text": context.shape[-1]}
        wanted = {"latent channels": self.base.in_channels, "channels of text": self.base.context_dim}
        if adm is not None:
            found["channels of pooled text"] = 0 if pooled is None else pooled.shape[-1]
            wanted["channels of pooled text"] = adm - 6 * _SIZE_CHANNELS
        for what, number in wanted.items():
            if found[what] != number:
                raise BaseMismatchError(
                    f"the data was cached with {found[what]} {what}, and the base model reads {number}; it "
                    "was made with the VAE or CLIP of another family. Cache it with this model's own."
                )

    @property
    def data_hash(self) -> str:
        return self.cache.manifest.data_hash

    @property
    def facts(self) -> dict[str, str]:
        manifest = self.cache.manifest
        facts = {
            "hint_kind": manifest.preparation.hint_kind or "",
            "annotator": manifest.annotator,
            "resolution": str(manifest.preparation.resolution),
            "pairs": str(len(self)),
        }
        return {name: value for name, value in facts.items() if value}

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, index: int, rows: int, seed: int, drop: float) -> Batch:
        """As `batches.Source` says; each row draws its latent and its caption's fate by its own seed."""
        number, place = divmod(index, len(self))
        chosen = [self.examples[i] for i in self._round(rows, seed, number)[place].tolist()]
        latents, texts, dropped = [], [], []
        for row, example in enumerate(chosen):
            generator = torch.Generator().manual_seed(mixed(seed, index, row))
            mean, std = self.cache.latent(example)
            if std is not None:
                mean = mean + std * torch.randn(mean.shape, generator=generator)
            latents.append(mean * self.scale)
            dropped.append(float(torch.rand((), generator=generator)) < drop)
            texts.append(self.cache.text(self.cache.manifest.empty if dropped[-1] else example.text))
        return Batch(
            latents=torch.stack(latents),
            hints=torch.stack([self._hint(example) for example in chosen]),
            context=_same_length([context for context, _ in texts]),
            y=self._vectors(chosen, [pooled for _, pooled in texts]),
            names=tuple(example.name for example in chosen),
            dropped=tuple(dropped),
        )

    def _hint(self, example: Example) -> Tensor:
        hint = self.cache.hint(example).movedim(-1, 0)
        if self.hint_channels == 1:
            return (luminance(hint[None].float() / 255)[0] * 255).round().byte()
        return hint

    def _vectors(self, chosen: list[Example], pooled: list[Tensor | None]) -> Tensor | None:
        if self.base.adm_in_channels is None:
            return None
        sizes = [(e.original[1], e.original[0], e.crop[1], e.crop[0], e.height, e.width) for e in chosen]
        return torch.stack(
            [size_condition(text, size) for text, size in zip(pooled, sizes, strict=True) if text is not None]
        )


def size_condition(pooled: Tensor, sizes: tuple[int, int, int, int, int, int]) -> Tensor:
    """SDXL's vector condition (arXiv 2307.01952, section 2.2) of a pooled text [D]: [D + 6 * 256].

    sizes: height and width of the original picture, top and left of the crop, height and width of the target.
    """
    embedded = timestep_embedding(torch.tensor(sizes), _SIZE_CHANNELS, torch.float32)
    return torch.cat([pooled, embedded.flatten().to(pooled)])


def _same_length(contexts: list[Tensor]) -> Tensor:
    """Contexts [N,D] of one length, and of the empty prompt, as one [B,M,D]: repeated, which changes no
    attention to them."""
    length = math.lcm(*(context.shape[0] for context in contexts))
    return torch.stack([context.repeat(length // context.shape[0], 1) for context in contexts])
