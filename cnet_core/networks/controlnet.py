"""ControlNet (arXiv 2302.05543): a trainable copy of a UNet's encoder, joined by zero convolutions."""

from typing import Any

import torch
from torch import Tensor, nn

from ..control.residuals import Residuals
from .blocks import Attention, Build, Inputs, Run, Text, directly, run_block, sdpa
from .config import UNetConfig
from .protocol import Features
from .unet import Encoder, UNet

HINT_WIDTHS = (16, 32, 96, 256)


def zeroed(module: nn.Module) -> nn.Module:
    """Set every weight and bias to zero: the join says nothing until it is trained (section 3.1)."""
    for parameter in module.parameters():
        if not parameter.is_meta:
            nn.init.zeros_(parameter)
    return module


def hint_encoder(channels: int, widths: tuple[int, ...], out: int, build: Build) -> nn.Sequential:
    """Convolutions that bring a hint [B,channels,8H,8W] to features [B,out,H,W]; only the last is zeroed.

    `widths` are the channels at full, half, quarter and eighth size (the release: 16, 32, 96, 256); without
    any there is no encoder.
    """
    if not widths:
        return nn.Sequential()
    layers = [build.conv(channels, widths[0], 3), nn.SiLU(), build.conv(widths[0], widths[0], 3), nn.SiLU()]
    for i in range(1, len(widths)):
        layers += [build.conv(widths[i - 1], widths[i], 3, stride=2), nn.SiLU()]
        if i + 1 < len(widths):
            layers += [build.conv(widths[i], widths[i], 3), nn.SiLU()]
    return nn.Sequential(*layers, zeroed(build.conv(widths[-1], out, 3)))


class ControlNet(Encoder):
    """Reads x_t, the text and a hint; answers with residuals for the base UNet.

    operations, attention, dtype, device: as for UNet. A fresh network says nothing: all its joins are zero.
    """

    # Whether a hint is a latent, not an image.
    latent_hint = False

    def __init__(
        self,
        config: UNetConfig,
        hint_channels: int = 3,
        hint_widths: tuple[int, ...] = HINT_WIDTHS,
        operations: Any = nn,
        attention: Attention = sdpa,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        build = Build(operations, attention, dtype, device, config.norm_groups)
        super().__init__(config, build)
        self.hint_channels = hint_channels
        self.hint_widths = hint_widths
        self.input_hint_block = hint_encoder(hint_channels, hint_widths, config.model_channels, build)
        *downs, mid = config.residual_channels
        self.zero_convs = nn.ModuleList(nn.ModuleList([zeroed(build.conv(c, c, 1))]) for c in downs)
        self.middle_block_out = nn.ModuleList([zeroed(build.conv(mid, mid, 1))])

    @classmethod
    def from_unet(
        cls,
        unet: UNet,
        hint_channels: int = 3,
        hint_widths: tuple[int, ...] = HINT_WIDTHS,
        generator: torch.Generator | None = None,
    ) -> "ControlNet":
        """A new control network with a copy of this UNet's encoder and middle.

        The weights are cloned, never shared: training the copy cannot reach the base. Hint channels: 3 for
        RGB hints. generator: of the CPU, draws the hint encoder's weights; without, torch's global one. The
        controlled output equals the base's bit for bit until the first optimizer step.
        """
        first = next(unet.parameters())
        build = unet.build
        # Made without memory, so that no weight is drawn only to be overwritten.
        net = cls(
            unet.config,
            hint_channels,
            hint_widths,
            build.operations,
            build.attention,
            first.dtype,
            torch.device("meta"),
        ).to_empty(device=first.device)
        base = unet.state_dict()
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name in base:
                    parameter.copy_(base[name])
                else:
                    parameter.zero_()
            for layer in list(net.input_hint_block)[:-1]:
                # torch's own way for convolutions, weights and biases alike.
                bound = next((p[0].numel() ** -0.5 for p in layer.parameters()), 0.0)
                for parameter in layer.parameters():
                    drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                    parameter.copy_(drawn)
        return net

    def outline(
        self, operations: Any = nn, attention: Attention = sdpa, dtype: torch.dtype | None = None
    ) -> "ControlNet":
        """A network of the same sizes without weights, on torch's meta device; arguments as for UNet."""
        sizes = self.config, self.hint_channels, self.hint_widths
        return type(self)(*sizes, operations, attention, dtype, torch.device("meta"))

    def encode_hint(self, hint: Tensor) -> Features:
        """Features, one tensor [B,model_channels,H,W], of a hint [B,hint_channels,8H,8W] in 0..1.

        They depend on nothing else: compute them once, and use them at every step.
        """
        return (self.input_hint_block(hint),)

    def first_block(self, x: Tensor) -> Tensor:
        (conv,) = self.input_blocks[0].children()
        return conv(x)

    def enter(self, x: Tensor, hint: Tensor) -> Tensor:
        """What the later blocks start from: the latents and the encoded hint."""
        return self.first_block(x) + hint

    def forward(
        self,
        x: Tensor,
        features: Features,
        timesteps: Tensor,
        context: Tensor | Text,
        y: Tensor | None = None,
        run: Run = directly,
    ) -> Residuals:
        """Residuals for a UNet of the same configuration; arguments as in UNet.forward and encode_hint.

        run: how the blocks are run.
        """
        return self.residuals(x, features[0], self.embed(x, timesteps, context, y), run)

    def residuals(self, x: Tensor, hint: Tensor, inputs: Inputs, run: Run = directly) -> Residuals:
        """Run the copied encoder with the encoded hint, and join its states to the base's."""
        h, down = x, []
        for i, (block, zero_conv) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            h = self.enter(x, hint) if i == 0 else run(run_block, block, h, inputs)
            down.append(run_block(zero_conv, h, inputs))
        h = run(run_block, self.middle_block, h, inputs)
        return Residuals(down, self.middle_block_out[0](h))


class LatentControlNet(ControlNet):
    """The ControlNet of CtrLoRA (arXiv 2410.09400): no hint encoder, and the first block reads the hint, a
    latent, in place of x_t.

    The hint's image is encoded by the base's VAE from 0..1, where the VAE is otherwise given -1..1, and
    scaled as latents are. hint_channels: as many as latent channels; hint_widths: ().
    """

    latent_hint = True

    def encode_hint(self, hint: Tensor) -> Features:
        """Features, one tensor [B,model_channels,H,W], of a hint [B,hint_channels,H,W], a scaled latent."""
        return (self.first_block(hint),)

    def enter(self, x: Tensor, hint: Tensor) -> Tensor:
        return hint
