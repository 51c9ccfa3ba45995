"""Tiled upscalers take a control's hint, cut a tile out of it and assign that to a copy of the control.

Tiled Diffusion leaves the tiles' parts in the control's cond_hint instead, before each question.
"""

from typing import Any

import pytest
import torch

from minihost.shims.controlnet import ControlBase

from .test_wrong_input import Adapter

TILE = (slice(32, 64), slice(40, 80))


class Inpainting(Adapter):
    """A host's control that reads a mask beside its hint."""

    def __init__(self, mask: torch.Tensor | None = None):
        super().__init__()
        self.concat_mask, self.extra_concat_orig = True, [] if mask is None else [mask[:, None]]

    def copy(self) -> "Inpainting":
        other = Inpainting()
        self.copy_to(other)
        return other

    def get_control(self, x_noisy, *question):
        answer = super().get_control(x_noisy, *question)
        rows, _, *size = x_noisy.shape
        mask = torch.nn.functional.adaptive_avg_pool2d(self.extra_concat_orig[0], size)
        answer["output"][0] = answer["output"][0] * mask.repeat(rows // mask.shape[0], 1, 1, 1)
        return answer


@pytest.fixture
def base(vivid_base):
    return vivid_base


@pytest.fixture
def large() -> torch.Tensor:
    return torch.rand(3, 64, 80, 3, generator=torch.Generator().manual_seed(3))


def tile(image: torch.Tensor) -> torch.Tensor:
    """Of an IMAGE [B,H,W,C] or a MASK [B,H,W]."""
    return image[:, TILE[0], TILE[1]]


def cropped(control: Any) -> Any:
    """A copy of a chain in which every hint is cut to the tile."""
    copy = control.copy()
    copy.cond_hint_original = copy.cond_hint_original[..., TILE[0], TILE[1]]
    copy.cond_hint = None
    if control.previous_controlnet is not None:
        copy.set_previous_controlnet(cropped(control.previous_controlnet))
    return copy


def of_tile(prompts: dict[str, list]) -> dict[str, list]:
    control = prompts["positive"][0][1]["control"]
    made = cropped(control)
    return {
        kind: [[text, {**options, "control": made}] for text, options in prompts[kind]] for kind in prompts
    }


def half(image: torch.Tensor) -> torch.Tensor:
    """A mask that differs from tile to tile."""
    mask = torch.linspace(0, 1, image.shape[1] * image.shape[2]).reshape(1, *image.shape[1:3])
    return (mask > 0.6).float()


KINDS = [
    "plain",
    "masked",
    "batch",
    "host's",
    "host's masked",
    "host's inpainting",
    "reference",
    "union",
    "merged",
    "merged batches",
]


@pytest.fixture
def controlled(prompts, load, apply, unit, merge, call, base):
    """Conditionings with a control of this kind for pictures as `cut` makes them of larger ones."""

    def controlled(kind: str, large: torch.Tensor, cut: Any) -> dict[str, list]:
        one, both, mask = cut(large[:1]), cut(large[:2]), cut(half(large))
        first, second = load("first"), load("second")
        if kind == "plain":
            return apply(prompts, first, one)
        if kind == "masked":
            return apply(prompts, first, one, mask=mask)
        if kind == "batch":
            return apply(prompts, first, both, mask=mask)
        if kind == "host's":
            return apply(prompts, Adapter(), one)
        if kind == "host's masked":
            return apply(prompts, Adapter(), one, mask=mask)
        if kind == "host's inpainting":
            return apply(prompts, Inpainting(mask), one)
        if kind == "reference":
            return apply(prompts, call("CNetReference", style_fidelity=0.5), one, vae=base[2])
        if kind == "union":
            hints = {"canny": one, "depth": cut(large[1:])}
            union = call("CNetUnionHints", control_net=load("union"), **hints)
            return apply(prompts, union, None, mask=mask, strength=50.0)
        units = unit(first, one, mask=mask), unit(second, cut(large[2:])), unit(first, cut(large[1:2]))
        if kind == "merged":
            return merge(prompts, *units, mode="average")
        return merge(prompts, unit(first, both, mask=mask), unit(second, cut(large)))

    return controlled


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_on_a_copy_acts_as_a_hint_that_is_the_tile(kind, controlled, large, draw):
    whole = controlled(kind, large, lambda image: image)
    before = draw(**whole, batch=2)
    expected = draw(**controlled(kind, large, tile), batch=2)
    torch.testing.assert_close(draw(**of_tile(whole), batch=2), expected, rtol=1e-4, atol=3e-5)
    assert (expected - before).abs().max() > 1e-3
    # The copy is on its own.
    assert torch.equal(draw(**whole, batch=2), before)


class Tiler(ControlBase):
    """Asks a chain as Tiled Diffusion does: about the tile that is drawn, behind `before` other tiles."""

    def __init__(self, control: Any, before: int = 0):
        super().__init__()
        self.previous_controlnet, self.before = control, before
        self.parts: dict[Any, torch.Tensor] = {}

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        count, rows = self.before + 1, x_noisy.shape[0]
        control = self.previous_controlnet
        while control is not None:
            # They keep them from step to step.
            control.cond_hint = self.parts.setdefault((control, rows), self.cut(control, rows))
            control = control.previous_controlnet
        repeated = {k: v.repeat(count, *[1] * (v.ndim - 1)) for k, v in cond.items() if torch.is_tensor(v)}
        others = torch.zeros_like(x_noisy).repeat(self.before, 1, 1, 1)
        question = torch.cat([others, x_noisy]), t.repeat(count), {**cond, **repeated}
        answer = self.previous_controlnet.get_control(*question, batched_number, transformer_options)
        return answer and {k: [r if r is None else r[-rows:] for r in answer[k]] for k in answer}

    def cut(self, control: Any, rows: int) -> torch.Tensor:
        hint = control.cond_hint_original
        hint = hint.repeat(rows, 1, 1, 1)[:rows]
        return torch.cat([*[hint[..., :32, :40]] * self.before, hint[..., TILE[0], TILE[1]]])


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_in_cond_hint_acts_as_a_hint_that_is_the_tile(kind, before, controlled, large, draw):
    whole = controlled(kind, large, lambda image: image)
    tiler = Tiler(whole["positive"][0][1]["control"], before)
    asked = {k: [[text, {**o, "control": tiler}] for text, o in whole[k]] for k in whole}
    if kind == "reference":
        with pytest.raises(ValueError, match="inside the attention"):
            draw(**asked, batch=2)
        return
    expected = draw(**controlled(kind, large, tile), batch=2)
    torch.testing.assert_close(draw(**asked, batch=2), expected, rtol=1e-4, atol=3e-5)


def test_tiles_in_cond_hint_know_their_sides_and_frames(call, large, draw, load, apply, prompts):
    frames = call("CNetFrameStrengths", strengths="1, 0.3")
    uneven = {"uncond_gain": 0.4, "schedule": frames}
    tiler = Tiler(apply(prompts, load("first"), large[:2], **uneven)["positive"][0][1]["control"], before=2)
    asked = {k: [[text, {**o, "control": tiler}] for text, o in prompts[k]] for k in prompts}
    expected = draw(**apply(prompts, load("first"), tile(large[:2]), **uneven), batch=2)
    torch.testing.assert_close(draw(**asked, batch=2), expected, rtol=1e-4, atol=3e-5)


def test_a_merge_with_one_control_inside_the_attention_refuses_tiles(
    call, large, draw, load, unit, merge, prompts, base
):
    reference = unit(call("CNetReference", style_fidelity=0.5), large[:1], vae=base[2])
    merged = merge(prompts, unit(load("first"), large[:1]), reference)
    tiler = Tiler(merged["positive"][0][1]["control"])
    asked = {k: [[text, {**o, "control": tiler}] for text, o in merged[k]] for k in merged}
    with pytest.raises(ValueError, match="inside the attention"):
        draw(**asked)


@pytest.mark.parametrize("kind", ["plain", "merged"])
def test_what_a_cancelled_sampler_left_in_cond_hint_is_gone_in_the_next_run(kind, controlled, large, draw):
    whole = controlled(kind, large, lambda image: image)
    expected = draw(**whole)
    for _, options in (*whole["positive"], *whole["negative"]):
        control = options["control"]
        control.cond_hint = control.cond_hint_original[..., TILE[0], TILE[1]]
    assert torch.equal(draw(**whole), expected)


def test_a_control_that_is_cut_keeps_all_its_masks(prompts, load, apply, large):
    masks = torch.rand(2, *large.shape[1:3])
    control = apply(prompts, load("first"), large[:2], mask=masks)["positive"][0][1]["control"]
    assert torch.equal(cropped(control).weighting.mask, tile(masks))


def test_tiles_are_cut_out_of_a_whole_chain(controlled, large, draw, load, apply):
    def chained(cut: Any) -> dict[str, list]:
        return apply(controlled("merged", large, cut), load("second"), cut(large[:1]))

    expected = draw(**chained(tile))
    torch.testing.assert_close(draw(**of_tile(chained(lambda image: image))), expected, rtol=1e-4, atol=3e-5)


def test_several_tiles_go_to_the_latents_of_a_batch(controlled, large, draw):
    """Some upscalers draw several tiles at once, each with its part of the hint."""
    prompts = controlled("merged", large, lambda image: image)
    control = prompts["positive"][0][1]["control"].copy()
    stack = control.cond_hint_original
    control.cond_hint_original = torch.cat([stack[..., :32, :40], stack[..., TILE[0], TILE[1]]])
    for kind in prompts:
        prompts[kind] = [[text, {**options, "control": control}] for text, options in prompts[kind]]
    found = draw(**prompts, batch=2)
    first = draw(**controlled("merged", large, lambda image: image[:, :32, :40]), batch=2)
    second = draw(**controlled("merged", large, tile), batch=2)
    torch.testing.assert_close(found[0], first[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[1], second[1], rtol=1e-3, atol=1e-4)


def test_a_merge_says_that_it_cannot_take_one_hint_for_all(controlled, large):
    control = controlled("merged", large, lambda image: image)["positive"][0][1]["control"]
    with pytest.raises(ValueError, match="before Merge Controls"):
        control.cond_hint_original = torch.zeros(1, 3, 8, 8)
