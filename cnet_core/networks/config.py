"""The one description of a Stable Diffusion UNet from which UNet and ControlNet are built.

Field names follow the LDM release and ComfyUI, so a host's own UNet configuration reads the same.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a UNet with cross-attention.

    Tuples have one entry per resolution level, finest first. `transformer_depth` is the number of
    transformer blocks after each residual block of that level (0: no transformer). In the middle, 0 is a
    transformer of its projections only and -1 is none, nor a second residual block. `context_dim` is 0 where
    nothing reads text. Heads: either `num_heads` is set (SD1.5: 8 everywhere) or `num_head_channels` (SD2.x
    and SDXL: 64 channels a head). `adm_in_channels` is the width of the vector condition `y` (SDXL: 2816),
    None where the model takes none. `norm_groups` is 32 in every release; a narrow network needs fewer, else
    each group is a channel or two and forgets its mean.
    """

    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2, 2)
    transformer_depth: tuple[int, ...] = (1, 1, 1, 0)
    transformer_depth_middle: int = 1
    context_dim: int = 768
    num_heads: int | None = None
    num_head_channels: int | None = None
    use_linear_in_transformer: bool = False
    adm_in_channels: int | None = None
    norm_groups: int = 32
    in_channels: int = 4
    out_channels: int = 4

    def __post_init__(self) -> None:
        levels = len(self.channel_mult)
        if not levels == len(self.num_res_blocks) == len(self.transformer_depth):
            raise ValueError(
                f"channel_mult, num_res_blocks and transformer_depth need one entry per level, got "
                f"{levels}, {len(self.num_res_blocks)} and {len(self.transformer_depth)}"
            )
        if (self.num_heads is None) == (self.num_head_channels is None):
            raise ValueError("give either num_heads or num_head_channels, and not both")

    @property
    def time_embed_dim(self) -> int:
        return 4 * self.model_channels

    @property
    def residual_channels(self) -> list[int]:
        """Channels of the skips in encoder order, then of the middle (SD1.5: 12 + 1, SDXL: 9 + 1)."""
        channels = [self.model_channels]
        for level, (mult, blocks) in enumerate(zip(self.channel_mult, self.num_res_blocks, strict=True)):
            channels += [mult * self.model_channels] * blocks
            if level + 1 < len(self.channel_mult):
                channels.append(mult * self.model_channels)
        return [*channels, self.channel_mult[-1] * self.model_channels]

    @property
    def residual_scales(self) -> list[int]:
        """How many times each residual's sides are smaller than the latent's, in the same order."""
        scales = [1]
        for level, blocks in enumerate(self.num_res_blocks):
            scales += [2**level] * blocks
            if level + 1 < len(self.channel_mult):
                scales.append(2 ** (level + 1))
        return [*scales, 2 ** (len(self.channel_mult) - 1)]

    def heads(self, channels: int) -> int:
        """Attention heads of a layer of this width."""
        if self.num_heads is not None:
            return self.num_heads
        assert self.num_head_channels is not None
        return channels // self.num_head_channels


SD15 = UNetConfig(num_heads=8)
SD21 = UNetConfig(context_dim=1024, num_head_channels=64, use_linear_in_transformer=True)
SDXL = UNetConfig(
    channel_mult=(1, 2, 4),
    num_res_blocks=(2, 2, 2),
    transformer_depth=(0, 2, 10),
    transformer_depth_middle=10,
    context_dim=2048,
    num_head_channels=64,
    use_linear_in_transformer=True,
    adm_in_channels=2816,
)
