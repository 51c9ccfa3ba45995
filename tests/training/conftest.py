"""A tiny base, and data in memory, for what is trained in tests."""

import pytest
import torch

from cnet_core.networks.config import UNetConfig
from cnet_core.networks.unet import UNet
from cnet_core.training.batches import Batch
from cnet_core.training.config import Settings
from cnet_core.training.learner import Learner
from cnet_core.training.order import batches_of_round, mixed
from cnet_core.training.start import trainable

CONFIG = UNetConfig(16, (1, 2), (1, 1), (1, 0), context_dim=8, num_heads=2, norm_groups=4)
XL = UNetConfig(
    16,
    (1, 2),
    (1, 1),
    (0, 1),
    context_dim=8,
    num_head_channels=8,
    use_linear_in_transformer=True,
    adm_in_channels=24,
    norm_groups=4,
)
HINT_WIDTHS = (4, 8, 8, 8)
# Small enough for tests, and quick to move weights.
SETTINGS = Settings(
    steps=6, batch=2, accumulation=1, rate=1e-2, warm_up=2, precision="fp32", probe_every=0, save_every=2
)


class Memory:
    """A Source of `count` random examples; `broken`: the names of those whose latents are not numbers."""

    hint_channels = 3

    def __init__(self, count: int = 6, config: UNetConfig = CONFIG, broken: tuple[str, ...] = ()):
        generator = torch.Generator().manual_seed(3)
        self.latents = torch.randn(count, config.in_channels, 4, 4, generator=generator)
        self.hints = (torch.rand(count, 3, 32, 32, generator=generator) * 255).byte()
        self.context = torch.randn(count, 5, config.context_dim, generator=generator)
        adm = config.adm_in_channels
        self.y = None if adm is None else torch.randn(count, adm, generator=generator)
        for name in broken:
            self.latents[int(name)] = float("nan")
        self.data_hash = f"memory {count} {broken}"
        self.facts = {"hint_kind": "lines", "annotator": "canny"}

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, index: int, rows: int, seed: int, drop: float) -> Batch:
        number, place = divmod(index, len(self))
        chosen = batches_of_round([0] * len(self), rows, seed, number)[place].tolist()
        generator = torch.Generator().manual_seed(mixed(seed, index))
        dropped = torch.rand(rows, generator=generator) < drop
        context = self.context[chosen].clone()
        context[dropped] = 0
        return Batch(
            self.latents[chosen],
            self.hints[chosen],
            context,
            None if self.y is None else self.y[chosen],
            tuple(str(i) for i in chosen),
            tuple(dropped.tolist()),
        )


def make_base(config: UNetConfig = CONFIG) -> UNet:
    """The same random base at every call, and torch's global generator as it was."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return UNet(config).eval().requires_grad_(False)


def make_learner(settings: Settings = SETTINGS, base: UNet | None = None) -> Learner:
    base = base or make_base()
    return Learner(base, trainable(base, settings, hint_widths=HINT_WIDTHS), settings)


@pytest.fixture
def base() -> UNet:
    return make_base()


@pytest.fixture
def source() -> Memory:
    return Memory()
