"""ControlNet-LLLite in minihost: from its file through every node to the attentions of the UNet."""

import pytest
import torch
from safetensors.torch import save_file

from cnet_core.networks.lllite import LayerSizes, LLLite
from minihost import shims

from .test_control import hash_of

PLACES = ("input_blocks_1", "output_blocks_2")
# Widths relative to the block's.
LAYERS = {"attn1_to_q": 1, "attn1_to_k": 1, "attn1_to_v": 1, "attn2_to_q": 1}
MORE_LAYERS = {**LAYERS, "attn1_to_out_0": 1, "ff_net_0_proj": 1, "ff_net_2": 4}


def random_file(path, places=PLACES, layers=LAYERS):
    net = LLLite(
        {
            f"lllite_unet_{place}_1_transformer_blocks_0_{layer}": LayerSizes(32 * width, 1, 8, 4)
            for place in places
            for layer, width in layers.items()
        }
    )
    generator = torch.Generator().manual_seed(5)
    state = {
        name.removeprefix("layers."): torch.randn(tensor.shape, generator=generator) * 0.3
        for name, tensor in net.state_dict().items()
    }
    save_file(state, path)


@pytest.fixture
def base(vivid_base):
    return vivid_base


@pytest.fixture(scope="module", params=[LAYERS, MORE_LAYERS], ids=["attention", "attention and MLP"])
def control(request, tmp_path_factory, call):
    folder, name = tmp_path_factory.mktemp("lllite"), f"lllite{len(request.param)}.safetensors"
    random_file(folder / name, layers=request.param)
    shims.folder_paths.add_model_folder_path("controlnet", str(folder))
    return call("CNetLoadControlNet", control_net_name=name)


def test_it_steers_and_leaves_nothing_behind(base, prompts, draw, apply, control, hint):
    before, plain = hash_of(base[0]), draw(**prompts)
    drawn = draw(**apply(prompts, control, hint))
    assert (drawn - plain).abs().max() > 1e-2
    assert not torch.equal(draw(**apply(prompts, control, 1 - hint)), drawn)
    assert torch.equal(draw(**apply(prompts, control, hint)), drawn)
    assert hash_of(base[0]) == before
    assert torch.equal(draw(**prompts), plain)


def test_strength_0_and_empty_masks_and_ranges_are_absence(prompts, draw, apply, control, hint):
    assert apply(prompts, control, hint, strength=0.0) == prompts
    assert apply(prompts, control, hint, mask=torch.zeros(1, 32, 40)) == prompts
    assert torch.equal(draw(**apply(prompts, control, hint, end_percent=0.0)), draw(**prompts))


def test_every_weight_counts(call, prompts, draw, apply, control, hint):
    plain, whole = draw(**prompts), draw(**apply(prompts, control, hint))
    (frames,) = [call("CNetFrameStrengths", strengths="0, 1")]
    pair, both = (draw(**p, batch=2) for p in (prompts, apply(prompts, control, hint, schedule=frames)))
    torch.testing.assert_close(both[0], pair[0], rtol=1e-4, atol=1e-4)
    assert (both[1] - pair[1]).abs().max() > 1e-2
    weaker = [
        draw(**apply(prompts, control, hint, **settings))
        for settings in ({"strength": 0.5}, {"uncond_gain": 0.0}, {"balance": "prompt first"})
    ]
    assert all(not torch.equal(drawn, other) for drawn in weaker for other in (plain, whole))
    half = torch.ones(1, 32, 40)
    half[..., 20:] = 0
    change = draw(**apply(prompts, control, hint, mask=half)) - plain
    assert change[..., :2].norm() > change[..., 3:].norm()
    white = draw(**apply(prompts, control, hint, mask=torch.ones(1, 32, 40)))
    torch.testing.assert_close(white, whole, rtol=1e-4, atol=1e-4)


def test_it_joins_chains_merges_and_references(
    call, base, prompts, draw, load, apply, unit, merge, control, hint
):
    other = load("first")
    chained = draw(**apply(apply(prompts, control, hint), other, 1 - hint))
    for mode in ("sum", "regions"):
        merged = draw(**merge(prompts, unit(other, 1 - hint), unit(control, hint), mode=mode))
        torch.testing.assert_close(merged, chained, rtol=1e-4, atol=1e-5)
    reference = call("CNetReference", style_fidelity=0.5)
    once = apply(apply(prompts, control, hint), reference, hint, vae=base[2])
    again = apply(apply(prompts, reference, hint, vae=base[2]), control, hint)
    torch.testing.assert_close(draw(**once), draw(**again), rtol=1e-4, atol=1e-5)


def test_the_hosts_own_apply_node_takes_it(prompts, draw, apply, control, hint):
    """As ComfyUI's Apply ControlNet does it: a copy with its hint, chained to what was there."""
    applied = control.copy().set_cond_hint(hint.movedim(-1, 1), 0.7, (0.0, 1.0))
    entries = {
        side: [[tokens, {**options, "control": applied}] for tokens, options in entry]
        for side, entry in prompts.items()
    }
    assert torch.equal(draw(**entries), draw(**apply(prompts, control, hint, strength=0.7)))


def test_one_made_for_another_base_is_refused(call, control, prompts, draw, apply, hint, tmp_path):
    random_file(tmp_path / "deep.safetensors", ("input_blocks_4",))
    shims.folder_paths.add_model_folder_path("controlnet", str(tmp_path))
    deep = call("CNetLoadControlNet", control_net_name="deep.safetensors")
    with pytest.raises(ValueError, match="block input 4"):
        draw(**apply(prompts, deep, hint))
