"""T2I-Adapter against diffusers', random weights of every kind, read from a file as diffusers writes it."""

import pytest
import torch
from safetensors.torch import save_file

from cnet_core.checkpoints import open_control

diffusers = pytest.importorskip("diffusers")

KINDS = {"full_adapter": (8, 2), "light_adapter": (8, 4), "full_adapter_xl": (16, 2)}


@torch.no_grad()
@pytest.mark.parametrize("size", [(128, 96), (16 * 13, 16 * 7)])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_features_equal_diffusers(tmp_path, kind, channels, size):
    """The second size is odd at the first feature or at later ones."""
    factor, blocks = KINDS[kind]
    widths = [16, 32, 48] if kind == "light_adapter" else [16, 32, 48, 48]
    torch.manual_seed(0)
    theirs = diffusers.T2IAdapter(channels, widths, blocks, factor, kind).eval()
    save_file(theirs.state_dict(), tmp_path / "adapter.safetensors")
    ours = open_control(tmp_path / "adapter.safetensors").build()
    hint = torch.rand(2, channels, *size)
    expected = theirs(hint)
    features = ours.encode_hint(hint)
    assert len(features) == len(expected) == 4
    for ours_i, theirs_i in zip(features, expected, strict=True):
        assert theirs_i.std() > 0.01
        torch.testing.assert_close(ours_i, theirs_i, rtol=0, atol=1e-5)
