"""The reference control in minihost: what it makes of a picture, and what it leaves alone."""

import sys
from types import SimpleNamespace

import pytest
import torch

from .conftest import randomised
from .test_control import hash_of


@pytest.fixture
def base(vivid_base):
    return vivid_base


@pytest.fixture
def refer(call, apply, base, prompts, hint):
    """Conditionings under a reference control; settings as of Apply ControlNet."""

    def refer(style_fidelity=0.5, image=hint, prompts=prompts, **settings):
        control = call("CNetReference", style_fidelity=style_fidelity)
        return apply(prompts, control, image, vae=base[2], **settings)

    return refer


@pytest.fixture
def passes(base):
    """The number of rows in each pass of the UNet, in order."""
    rows = []
    unet = base[0].model.diffusion_model
    handle = unet.register_forward_pre_hook(lambda _module, inputs: rows.append(inputs[0].shape[0]))
    yield rows
    handle.remove()


def test_a_reference_changes_the_picture_and_leaves_nothing_behind(base, prompts, draw, refer, hint):
    before, plain = hash_of(base[0]), draw(**prompts)
    drawn = draw(**refer())
    assert (drawn - plain).abs().max() > 1e-3
    assert not torch.equal(draw(**refer(image=1 - hint)), drawn)
    assert torch.equal(draw(**refer()), drawn)
    assert hash_of(base[0]) == before
    assert torch.equal(draw(**prompts), plain)


def test_strength_0_and_empty_masks_and_ranges_are_absence(prompts, draw, refer):
    assert refer(strength=0.0) == prompts
    assert refer(mask=torch.zeros(1, 32, 40)) == prompts
    assert torch.equal(draw(**refer(end_percent=0.0)), draw(**prompts))


def test_strength_and_style_fidelity_are_degrees(prompts, draw, refer):
    plain = draw(**prompts)

    def moved(**settings):
        return float((draw(**refer(**settings)) - plain).norm())

    strengths = [moved(strength=strength) for strength in (0.1, 0.4, 1.0)]
    assert strengths == sorted(strengths) and strengths[0] > 0
    assert moved(style_fidelity=0.0) != moved(style_fidelity=1.0)


def test_both_sides_stay_one_batch_and_the_reference_is_read_once_for_each(prompts, draw, refer, passes):
    draw(**refer())
    assert passes == [2] * 8
    passes.clear()
    draw(**refer(style_fidelity=1.0))
    assert passes == [1, 2] * 4
    passes.clear()
    draw(**refer(), batch=3)
    assert passes == [2, 6] * 4
    passes.clear()
    draw(**refer(), cfg=1.0)
    assert passes == [1] * 8


def test_a_batch_of_references_goes_to_a_batch_of_latents(draw, refer, hint):
    """Beside each other, pictures are drawn as they are alone."""
    both = draw(**refer(image=torch.cat([hint, 1 - hint])), batch=2)
    swapped = draw(**refer(image=torch.cat([1 - hint, hint])), batch=2)
    first, last = (draw(**refer(image=image), batch=2) for image in (hint, 1 - hint))
    torch.testing.assert_close(both[0], first[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(swapped[1], first[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(swapped[0], last[0], rtol=1e-4, atol=1e-4)


def test_a_white_mask_is_none_and_a_half_one_lies_between(prompts, draw, refer):
    whole = draw(**refer())
    torch.testing.assert_close(draw(**refer(mask=torch.ones(1, 32, 40))), whole, rtol=1e-4, atol=1e-4)
    half = torch.ones(1, 32, 40)
    half[..., 20:] = 0
    found, plain = draw(**refer(mask=half)), draw(**prompts)
    assert (found - plain)[..., :2].norm() > (found - plain)[..., 3:].norm()


def test_it_joins_chains_and_merges(prompts, draw, refer, load, apply, call, unit, merge, base, hint):
    control = load("first")
    after = draw(**apply(refer(), control, hint))
    before = draw(**refer(prompts=apply(prompts, control, hint)))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert not torch.equal(after, draw(**refer()))
    assert not torch.equal(after, draw(**apply(prompts, control, hint)))
    reference = unit(call("CNetReference", style_fidelity=0.5), hint, vae=base[2])
    for mode in ("sum", "average", "priority", "regions"):
        merged = merge(prompts, reference, unit(control, hint), mode=mode)
        torch.testing.assert_close(draw(**merged), after, rtol=1e-4, atol=1e-5)
    twice = draw(**refer(prompts=refer(), image=1 - hint))
    assert not torch.equal(twice, draw(**refer()))


@pytest.mark.parametrize("family", ["reference", "CtrLoRA"])
def test_a_picture_is_encoded_once_for_all_runs_and_controls(family, prompts, draw, apply, call, load, base):
    encoded = []

    class Vae(type(base[2])):
        def encode(self, image):
            encoded.append(image.shape)
            return super().encode(image)

        def spacial_compression_encode(self):
            return 8

    def control():
        if family == "reference":
            return call("CNetReference", style_fidelity=0.5)
        like = load("first")
        # The pack's own class, under the name that the host imports it by.
        networks = sys.modules[type(like.network.net).__module__]
        net = randomised(networks.LatentControlNet(like.config, 4, ()), 5)
        return type(like)(type(like.network)(net, torch.float32, "CtrLoRA", lambda config: None))

    vae, image = Vae(), torch.rand(1, 32, 40, 3, generator=torch.Generator().manual_seed(8))
    applied = apply(prompts, control(), image, vae=vae)
    first = draw(**applied)
    assert torch.equal(draw(**applied), first)
    # Another prompt makes the node run anew; a picture read from its file again is another object.
    assert torch.equal(draw(**apply(prompts, control(), image.clone(), vae=vae)), first)
    assert len(encoded) == 1
    other = draw(**apply(prompts, control(), 1 - image, vae=vae))
    assert len(encoded) == 2 and not torch.equal(other, first)
    draw(**apply(prompts, control(), image, vae=Vae()))
    assert len(encoded) == 3


def test_patches_of_others_stay_and_act(prompts, draw, refer, base):
    """Another pack's self-attention is left to it, and the model's own options are not touched."""
    blocks = []

    def silent(q, k, v, extra_options):
        blocks.append(extra_options["block"])
        return torch.zeros_like(q)

    model = base[0].clone()
    replaced = {"attn1": {("input", 1): silent}}
    model.model_options["transformer_options"] = {"patches_replace": replaced}
    alone = draw(**prompts, model=model)
    assert len(blocks) == 4
    together = draw(**refer(), model=model)
    assert len(blocks) == 8 and set(blocks) == {("input", 1)}
    assert not torch.equal(together, alone)
    assert replaced == {"attn1": {("input", 1): silent}}


def test_wrong_input_is_refused_with_the_mend(call, apply, prompts, hint, draw, base):
    control = call("CNetReference", style_fidelity=0.5)
    with pytest.raises(ValueError, match="connect the base model's VAE"):
        apply(prompts, control, hint)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        call("CNetReference", style_fidelity=1.5)

    class OtherVae:
        def encode(self, image):
            return torch.zeros(1, 16, image.shape[1] // 8, image.shape[2] // 8)

    with pytest.raises(ValueError, match="the VAE makes latents"):
        draw(**apply(prompts, control, hint, vae=OtherVae()))


def test_models_without_a_unet_are_refused_before_sampling(call, base, hint):
    control = call("CNetReference", style_fidelity=0.5).set_cond_hint(hint.movedim(-1, 1), vae=base[2])

    class Transformer:
        model_config = SimpleNamespace(unet_config={"depth": 19})
        model_sampling = base[0].model.model_sampling

    with pytest.raises(ValueError, match="the reference control was made for a Stable Diffusion UNet"):
        control.pre_run(Transformer(), float)


def test_an_inpainting_model_sees_the_reference_unmasked(call, base, prompts, refer):
    """What it reads beside the latent is the mask and the picture that is kept, here the reference's own."""
    seen = []
    model = base[0].model
    control = refer()["positive"][0][1]["control"]
    control.pre_run(model, lambda percent: 1e9 * (1 - percent))
    x = torch.zeros(2, 4, 4, 5)
    cond = {"c_crossattn": torch.cat([prompts[side][0][0] for side in ("negative", "positive")])}
    cond["c_concat"] = torch.ones(2, 5, 4, 5)
    handle = model.diffusion_model.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with pytest.raises(RuntimeError, match="9 channels"):
        control.get_control(x, torch.ones(2), cond, 2, {"cond_or_uncond": [1, 0]})
    handle.remove()
    assert seen[0].shape == (2, 9, 4, 5)
    assert (seen[0][:, 4] == 0).all()
    ((latent, _noise),) = control.run.features.values()
    assert torch.equal(seen[0][:1, 5:], latent)
