"""Draw pictures with the mini checkpoints, in plain torch: what trainings and report need, no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnet_core.checkpoints import load_controlnet
from cnet_core.control.mask import fit_mask
from cnet_core.control.merge import Part, Rule, merge
from cnet_core.control.residuals import Residuals
from cnet_core.networks.autoencoder import TinyAutoencoder
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.text_encoder import WordEncoder
from cnet_core.networks.unet import UNet
from cnet_core.training.diffusion import alpha_sigma
from demo.make import control_file, load_autoencoder, load_base
from demo.train import HINTS

# Chosen on validation scenes, which the report does not measure: see demo/report.py.
GUIDANCE = 4.0
SUM = Rule("sum")


@dataclass(frozen=True)
class MiniSD:
    """The mini checkpoints, ready to draw."""

    unet: UNet
    text: WordEncoder
    autoencoder: TinyAutoencoder
    latent_scale: float
    controls: dict[str, ControlNet]

    @classmethod
    def load(cls, weights: Path) -> "MiniSD":
        unet, text = load_base(weights)
        autoencoder, scale = load_autoencoder(weights)
        files = {kind: control_file(weights, kind) for kind in HINTS}
        controls = {
            kind: load_controlnet(file, torch.float32) for kind, file in files.items() if file.exists()
        }
        return cls(unet, text, autoencoder, scale, controls)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Pictures [B,H,W,3] in 0..1 through the autoencoder: the best that the base can draw of them."""
        return self.decode(self.autoencoder.encode(images.movedim(-1, 1) * 2 - 1))

    def decode(self, latents: Tensor) -> Tensor:
        return ((self.autoencoder.decode(latents) + 1) / 2).clamp(0, 1).movedim(1, -1)

    @torch.no_grad()
    def draw(
        self,
        captions: Sequence[str],
        hints: dict[str, Tensor],
        size: int,
        seed: int,
        steps: int = 12,
        guidance: float = GUIDANCE,
        rule: Rule = SUM,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Pictures [B,size,size,3] in 0..1, one per caption.

        hints: by kind, [B,size,size,3] in 0..1; several are merged by the rule, by default summed. masks: by
        kind, [B,size,size] in 0..1, where a control acts; without, everywhere. The sampler is DDIM (arXiv
        2010.02502) without noise, on evenly spaced timesteps; the same seed starts from the same noise.
        """
        batch = len(captions)
        noise = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, 4, size // 8, size // 8, generator=noise)
        context = self.text(self.text.tokenize([*captions, *([""] * batch)]))
        encoded = []
        for kind, hint in hints.items():
            net = self.controls[kind]
            (features,) = net.encode_hint(hint.movedim(-1, 1))
            encoded.append((net, (features.repeat(2, 1, 1, 1),)))
        acting = [(masks or {}).get(kind) for kind in hints]
        times = torch.linspace(999, 0, steps).round().long().tolist()
        for i, time in enumerate(times):
            t = torch.full((2 * batch,), time)
            doubled = x.repeat(2, 1, 1, 1)
            answers = [net(doubled, features, t, context) for net, features in encoded]
            residuals = None
            if answers:
                blocks = [
                    merge([_part(*one) for one in zip(blocks, acting, strict=True)], rule)
                    for blocks in zip(*answers, strict=True)
                ]
                residuals = Residuals(blocks[:-1], blocks[-1])
            cond, uncond = self.unet(doubled, t, context, residuals=residuals).chunk(2)
            v = uncond + guidance * (cond - uncond)
            alpha, sigma = alpha_sigma(torch.tensor([time]))
            clean, eps = alpha * x - sigma * v, sigma * x + alpha * v
            if i + 1 == steps:
                x = clean
            else:
                alpha, sigma = alpha_sigma(torch.tensor([times[i + 1]]))
                x = alpha * clean + sigma * eps
        return self.decode(x / self.latent_scale)


def _part(block: Tensor, mask: Tensor | None) -> Part:
    """What a control says at a block [2B,C,h,w], within its mask [B,H,W]."""
    if mask is None:
        return Part(block)
    rows, columns = block.shape[2:]
    fitted = fit_mask(mask, mask.shape[1] // 8, mask.shape[2] // 8, (rows, columns))
    return Part(block, mask=fitted[:, None].repeat(2, 1, 1, 1))
