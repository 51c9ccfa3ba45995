"""The table of wrong inputs: what happens to each, "handled" as a user expects or "refused" with the mend.

Broken files are in test_errors and tests/host/test_errors.
"""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet
from minihost.shims.controlnet import ControlBase

from .conftest import BASE, OTHERS, WIDTHS


class Adapter(ControlBase):
    """A control as a host makes them: its hint, shrunk to the latent's size, is added to the first block."""

    def __init__(self, latent_format: Any = None):
        super().__init__()
        self.latent_format = latent_format

    def copy(self) -> "Adapter":
        other = Adapter(self.latent_format)
        self.copy_to(other)
        return other

    def get_models(self) -> list[Any]:
        return []

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        assert self.cond_hint_original is not None
        small = torch.nn.functional.adaptive_avg_pool2d(self.cond_hint_original, x_noisy.shape[-2:])
        value = small.mean(1, keepdim=True).repeat(x_noisy.shape[0] // small.shape[0], 32, 1, 1)
        return {"input": [], "middle": [], "output": [value, None, None, None]}


@pytest.fixture
def bench(prompts, load, apply, unit, merge, hint, draw, base, call) -> SimpleNamespace:
    """The nodes under wrong inputs; `control` is right for the base."""
    return SimpleNamespace(
        prompts=prompts, load=load, apply=apply, unit=unit, merge=merge, hint=hint, draw=draw,
        base=base, call=call, control=load("first"),
        with_hint=lambda image, **how: draw(**apply(prompts, load("first"), image, **how)),
    )  # fmt: skip


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.isfinite().all() and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


# Handled: each gives what its picture should be, beside what it is.


def rgba_hint(b: Any) -> bool:
    alpha = (b.hint[..., :1] > 0.5).float()
    return equal(b.with_hint(torch.cat([b.hint, alpha], -1)), b.with_hint(b.hint * alpha))


def grey_hint(b: Any) -> bool:
    grey = b.hint[..., :1]
    return equal(b.with_hint(grey), b.with_hint(grey.repeat(1, 1, 1, 3)))


def rgba_hint_for_a_hosts_control(b: Any) -> bool:
    alpha = (b.hint[..., :1] > 0.5).float()
    drawn = [
        b.draw(**b.apply(b.prompts, Adapter(), image))
        for image in (torch.cat([b.hint, alpha], -1), b.hint * alpha, b.hint)
    ]
    return equal(drawn[0], drawn[1]) and not equal(drawn[0], drawn[2])


def grey_hint_for_a_hosts_control(b: Any) -> bool:
    grey = b.hint[..., :1]
    drawn = [b.draw(**b.apply(b.prompts, Adapter(), i)) for i in (grey, grey.repeat(1, 1, 1, 3))]
    return equal(*drawn)


def values_beyond_the_range(b: Any) -> bool:
    far = b.hint * 4 - 2
    return equal(b.with_hint(far), b.with_hint(far.clamp(-1, 1)))


def inpaint_hint(b: Any) -> bool:
    """-1 reaches the network through our apply node and the host's, ours and a host's."""
    marks = torch.zeros(1, 32, 40)
    marks[:, :16] = 1
    hint, black = (
        b.call("CNetInpaint", image=b.hint, mask=marks, mark=mark)[0] for mark in ("minus one", "black")
    )
    assert hint.min() == -1 and black.min() == 0
    for control in (b.control, Adapter()):
        drawn, darker = (b.draw(**b.apply(b.prompts, control, image)) for image in (hint, black))
        held = b.apply(b.prompts, control, hint)["positive"][0][1]["control"]
        held = held.copy().set_cond_hint(hint.movedim(-1, 1))
        by_host = {kind: [[t, {**o, "control": held}] for t, o in v] for kind, v in b.prompts.items()}
        if torch.equal(drawn, darker) or not equal(b.draw(**by_host), drawn):
            return False
    return True


def marks_on_the_way_to_a_vae(b: Any) -> bool:
    class Vae:
        """Told apart by identity alone."""

    control = b.apply(b.prompts, ForFlux(latent_format=object()), b.hint - 0.5, vae=Vae())
    return float(control["positive"][0][1]["control"].cond_hint_original.min()) == 0


def fewer_hints_than_pictures(b: Any) -> bool:
    def drawn(image: torch.Tensor) -> torch.Tensor:
        return b.draw(**b.apply(b.prompts, b.control, image), batch=3)

    hints = torch.cat([b.hint, 1 - b.hint])
    return equal(drawn(hints), drawn(hints[[0, 1, 0]]))


def more_hints_than_pictures(b: Any) -> bool:
    return equal(b.with_hint(torch.cat([b.hint, 1 - b.hint])), b.with_hint(b.hint))


def hint_of_another_size(b: Any) -> bool:
    bigger = b.hint.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return equal(b.with_hint(bigger), b.with_hint(b.hint))


def hint_of_another_shape(b: Any) -> bool:
    """Cut from the centre: a border of 8 pixels at either side changes nothing."""
    wide = torch.nn.functional.pad(b.hint.movedim(-1, 1), (8, 8, 0, 0)).movedim(1, -1)
    return equal(b.with_hint(wide), b.with_hint(b.hint))


def fewer_masks_than_pictures(b: Any) -> bool:
    def drawn(mask: torch.Tensor) -> torch.Tensor:
        return b.draw(**b.apply(b.prompts, b.control, b.hint, mask=mask), batch=3)

    masks = torch.rand(2, 32, 40, generator=torch.Generator().manual_seed(1))
    return equal(drawn(masks), drawn(masks[[0, 1, 0]]))


def more_masks_than_pictures(b: Any) -> bool:
    masks = torch.rand(5, 32, 40, generator=torch.Generator().manual_seed(1))
    return equal(b.with_hint(b.hint, mask=masks), b.with_hint(b.hint, mask=masks[:1]))


def mask_of_another_size(b: Any) -> bool:
    small = torch.rand(1, 4, 5, generator=torch.Generator().manual_seed(1))
    big = small.repeat_interleave(16, 1).repeat_interleave(16, 2)
    whole, one, other = (b.with_hint(b.hint, mask=mask) for mask in (None, small, big))
    # At blocks of odd sizes the pixels of a small mask are shared out more coarsely.
    return float((one - other).norm()) < 0.05 * float((one - whole).norm())


def mask_without_a_batch(b: Any) -> bool:
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(1))
    return equal(b.with_hint(b.hint, mask=mask), b.with_hint(b.hint, mask=mask[None]))


def region_outside_the_canvas(b: Any) -> bool:
    """Its mask is empty: the unit is left out, and the others act as if alone."""
    outside = b.unit(b.load("second"), b.hint, mask=torch.zeros(1, 32, 40))
    inside = b.unit(b.control, b.hint)
    together = b.draw(**b.merge(b.prompts, inside, outside, mode="regions"))
    return equal(together, b.with_hint(b.hint)) and b.merge(b.prompts, outside, mode="regions") == b.prompts


def unit_of_another_base_that_is_off(b: Any) -> bool:
    off = [b.unit(b.load(name), b.hint, enabled=False) for name in ("wide_text", "wide")]
    none = b.unit(b.load("wide_text"), b.hint, strength=0.0)
    together = b.draw(**b.merge(b.prompts, b.unit(b.control, b.hint), none, *off))
    return equal(together, b.with_hint(b.hint)) and b.merge(b.prompts, *off) == b.prompts


def strengths_without_spaces(b: Any) -> bool:
    written = {"0,1": (0, 1), "1,0.5,0": (1, 0.5, 0), "2,3,4": (2, 3, 4), "0, 5": (0, 5), "1,\n,0": (1, 0)}
    found = {text: b.call("CNetFrameStrengths", strengths=text).over_frames for text in written}
    return found == written


def more_frame_strengths_than_pictures(b: Any) -> bool:
    frames = b.call("CNetFrameStrengths", strengths="0.5 0 0 0")
    return equal(b.with_hint(b.hint, schedule=frames), b.with_hint(b.hint, strength=0.5))


def hosts_control_that_answers_for_one_row(b: Any) -> bool:
    """The host's adapters answer with one row for all latents; a chain adds it to each."""

    class Single(Adapter):
        def copy(self) -> "Adapter":
            other = Single()
            self.copy_to(other)
            return other

        def get_control(self, x_noisy, *rest):
            return super().get_control(x_noisy[:1], *rest)

    def held(control: Any) -> dict[str, list]:
        control.set_cond_hint(b.hint.movedim(-1, 1))
        return {k: [[t, {**o, "control": control}] for t, o in v] for k, v in b.prompts.items()}

    every, single = (b.draw(**b.apply(held(c), b.control, b.hint), batch=2) for c in (Adapter(), Single()))
    return equal(single, every)


def inpainting_mask_that_is_there(b: Any) -> bool:
    mask = torch.rand(1, 1, 4, 5)
    control = b.apply(b.prompts, Inpainting(mask), b.hint)["positive"][0][1]["control"]
    return [torch.equal(kept, mask) for kept in control.inner.extra_concat_orig] == [True]


HANDLED = {
    "RGBA hint: laid over black": rgba_hint,
    "RGBA hint for a host's control: laid over black": rgba_hint_for_a_hosts_control,
    "grey hint: repeated into three channels": grey_hint,
    "grey hint for a host's control: repeated into three channels": grey_hint_for_a_hosts_control,
    "hint values beyond -1..1: clamped": values_beyond_the_range,
    "-1 in an inpaint hint: handed on": inpaint_hint,
    "-1 in a hint that a VAE encodes: black": marks_on_the_way_to_a_vae,
    "mask that an inpainting control holds: kept": inpainting_mask_that_is_there,
    "fewer hints than pictures: from the first one again": fewer_hints_than_pictures,
    "more hints than pictures: the first ones": more_hints_than_pictures,
    "hint of another size: fitted": hint_of_another_size,
    "hint of another shape: cut from the centre": hint_of_another_shape,
    "fewer masks than pictures: from the first one again": fewer_masks_than_pictures,
    "more masks than pictures: the first ones": more_masks_than_pictures,
    "mask of another size: fitted by area": mask_of_another_size,
    "mask without a batch: for all pictures": mask_without_a_batch,
    "region outside the canvas: left out at no cost": region_outside_the_canvas,
    "unit of another base that is off or of strength 0: left out": unit_of_another_base_that_is_off,
    "strengths apart by commas without spaces: as written": strengths_without_spaces,
    "more frame strengths than pictures: the first ones": more_frame_strengths_than_pictures,
    "host's control with one row: for every picture": hosts_control_that_answers_for_one_row,
}


@pytest.mark.parametrize("what", HANDLED)
def test_handled(bench, what):
    assert HANDLED[what](bench)


# Refused: what is done, and words of the message, which names what was given and the mend.


def keyframe(b: Any, percent: float, strength: float, previous: Any = None) -> Any:
    return b.call(
        "CNetKeyframe", percent=percent, strength=strength, interpolation="linear", previous=previous
    )


def broken(b: Any, value: float) -> torch.Tensor:
    return torch.full_like(b.hint, value)


def of_type(control: Any, number: int) -> Any:
    """As the host's Set Union ControlNet Type gives it."""
    control = control.copy()
    control.set_extra_arg("control_type", [number])
    return control


REFUSED = {
    "prompt of another base": (
        lambda b: b.apply(b.prompts, b.load("wide_text"), b.hint),
        ["wide_text.safetensors", "width 16", "width 8", "Load a ControlNet made for"],
    ),
    "prompt of another base, in a merge": (
        lambda b: b.merge(b.prompts, b.unit(b.control, b.hint), b.unit(b.load("wide_text"), b.hint)),
        ["wide_text.safetensors", "width 16", "Load a ControlNet made for"],
    ),
    "prompt of another base, of a host's control": (
        lambda b: b.apply(b.prompts, ForUNet(OTHERS["wide_text"]), b.hint),
        ["width 16", "width 8", "Load a ControlNet made for"],
    ),
    "another UNet": (
        lambda b: b.draw(**b.apply(b.prompts, b.load("wide"), b.hint)),
        ["wide.safetensors", "64", "32", "Use a ControlNet made for"],
    ),
    "no VAE for a hint that is read as a latent": (
        lambda b: b.apply(b.prompts, Adapter(latent_format=object()), b.hint),
        ["connect the base model's VAE"],
    ),
    "no VAE for a unit": (
        lambda b: b.unit(Adapter(latent_format=object()), b.hint),
        ["connect the base model's VAE"],
    ),
    "inpainting control whose mask would be lost": (
        lambda b: b.apply(b.prompts, Inpainting(), b.hint),
        ["a mask of what is to be painted", "Apply ControlNet Inpainting (AliMama)"],
    ),
    "inpainting control whose mask would be lost, in a unit": (
        lambda b: b.unit(Inpainting(), b.hint),
        ["a mask of what is to be painted", "Apply ControlNet Inpainting (AliMama)"],
    ),
    "NaN in the hint": (
        lambda b: b.apply(b.prompts, b.control, broken(b, math.nan)),
        ["not finite", "preview"],
    ),
    "infinity in the hint": (lambda b: b.unit(b.control, broken(b, math.inf)), ["not finite", "preview"]),
    "NaN in the hint of a host's control": (
        lambda b: b.apply(b.prompts, Adapter(), broken(b, math.nan)),
        ["not finite", "preview"],
    ),
    "hint of two channels": (
        lambda b: b.apply(b.prompts, b.control, torch.zeros(1, 16, 16, 2)),
        ["2 channels", "wants 3", "Connect"],
    ),
    "hint without a picture": (
        lambda b: b.apply(b.prompts, b.control, torch.zeros(0, 16, 16, 3)),
        ["at least one image", "Connect an IMAGE"],
    ),
    "mask without a mask": (
        lambda b: b.apply(b.prompts, b.control, b.hint, mask=torch.zeros(0, 16, 16)),
        ["(0, 16, 16)", "Connect a MASK"],
    ),
    "NaN in the mask": (
        lambda b: b.unit(b.control, b.hint, mask=torch.full((1, 8, 8), math.nan)),
        ["mask", "not finite", "preview"],
    ),
    "image as a mask": (
        lambda b: b.apply(b.prompts, b.control, b.hint, mask=torch.zeros(1, 16, 16, 3)),
        ["(1, 16, 16, 3)", "Connect a MASK"],
    ),
    "union type that the file lacks": (
        lambda b: b.call("CNetUnionHints", control_net=b.load("union"), tile=b.hint),
        ["no type tile", "6 types", "Choose one of these"],
    ),
    "union type that the file lacks, by the host's node": (
        lambda b: b.apply(b.prompts, of_type(b.load("union"), 6), b.hint),
        ["no type tile", "6 types: openpose, depth", "Choose one of these"],
    ),
    "union type that a host's file lacks": (
        lambda b: b.apply(b.prompts, of_type(ForFlux(types=7), 7), b.hint),
        ["no type repaint", "7 types: openpose, depth", "tile. Choose one of these"],
    ),
    "union type that a host's file lacks, of a unit": (
        lambda b: b.unit(of_type(ForFlux(types=7), 7), b.hint),
        ["no type repaint", "Choose one of these"],
    ),
    "union type for a ControlNet without types": (
        lambda b: b.call("CNetUnionHints", control_net=b.control, canny=b.hint),
        ["hints of one kind only", "load a union ControlNet"],
    ),
    "union hint for a union ControlNet that the host runs": (
        lambda b: b.call("CNetUnionHints", control_net=ForFlux(types=7), canny=b.hint),
        ["loaded by ComfyUI", "Set Union ControlNet Type", "Apply ControlNet"],
    ),
    "union hint and another": (
        lambda b: b.apply(
            b.prompts, b.call("CNetUnionHints", control_net=b.load("union"), canny=b.hint), b.hint
        ),
        ["already holds its hints", "disconnect"],
    ),
    "keyframes out of order": (
        lambda b: keyframe(b, 0.2, 1.0, keyframe(b, 0.6, 1.0)),
        ["0.2", "0.6", "order of time"],
    ),
    "two keyframes at one moment": (
        lambda b: keyframe(b, 0.5, 1.0, keyframe(b, 0.5, 0.0)),
        ["0.5", "each later"],
    ),
    "keyframe beyond the end": (lambda b: keyframe(b, 1.5, 1.0), ["1.5", "expected 0"]),
    "negative strength of a keyframe": (lambda b: keyframe(b, 0.5, -1.0), ["-1.0", "from 0 upwards"]),
    "negative strength": (
        lambda b: b.apply(b.prompts, b.control, b.hint, strength=-0.5),
        ["strength is -0.5", "0 (no control) upwards"],
    ),
    "strength that is no number": (
        lambda b: b.unit(b.control, b.hint, strength=math.nan),
        ["strength is nan", "expected a number"],
    ),
    "negative strength of a frame": (
        lambda b: b.call("CNetFrameStrengths", strengths="1, -1"),
        ["frame 1 is -1", "from 0 upwards"],
    ),
    "strengths of frames twice": (
        lambda b: b.call(
            "CNetFrameStrengths", strengths="1", previous=b.call("CNetFrameStrengths", strengths="1, 0")
        ),
        ["strengths for frames already", "one list"],
    ),
    "word among the strengths": (
        lambda b: b.call("CNetFrameStrengths", strengths="1, much"),
        ["'much'", "such as 1, 0.5, 0"],
    ),
    "decimal comma": (
        lambda b: b.call("CNetFrameStrengths", strengths="0,5"),
        ["'0,5' among the strengths", "write 0.5 for one, or 0, 5 for two"],
    ),
    "decimal comma among others": (
        lambda b: b.call("CNetBlockWeights", preset={"preset": "custom", "weights": "1; 1,0; 0,75"}),
        ["'1,0' among the weights", "write 1.0 for one, or 1, 0 for two"],
    ),
    "negative end of a curve": (
        lambda b: b.call("CNetStrengthCurve", curve=[[0, 1], [1, 0]], lowest=-1.0),
        ["lowest is -1", "from 0 upwards"],
    ),
    "curve through no number": (
        lambda b: b.call("CNetStrengthCurve", curve=[[0, math.nan], [1, 0]]),
        ["nan", "draw it through points"],
    ),
    "negative weight of a block": (
        lambda b: b.call("CNetBlockWeights", preset={"preset": "custom", "weights": "1 -2"}),
        ["block 1 is -2", "from 0 upwards"],
    ),
    "negative gain": (
        lambda b: b.apply(b.prompts, b.control, b.hint, uncond_gain=-1.0),
        ["uncond gain is -1", "from 0 upwards"],
    ),
    "infinite feather": (
        lambda b: b.apply(b.prompts, b.control, b.hint, mask=torch.ones(1, 8, 8), feather=math.inf),
        ["feather is inf", "from 0 upwards"],
    ),
    "negative feather": (
        lambda b: b.apply(b.prompts, b.control, b.hint, mask=torch.ones(1, 8, 8), feather=-1.0),
        ["feather is -1", "from 0 upwards"],
    ),
    "end before the start": (
        lambda b: b.unit(b.control, b.hint, start_percent=0.8, end_percent=0.2),
        ["0.8", "0.2", "swap"],
    ),
    "two families in one merge": (
        lambda b: b.merge(b.prompts, b.unit(b.control, b.hint), b.unit(b.load("wide"), b.hint)),
        ["unit0 holds first.safetensors", "unit1 holds wide.safetensors", "same base model"],
    ),
    "two families in one merge, a host's and the pack's": (
        lambda b: b.merge(b.prompts, b.unit(b.control, b.hint), b.unit(ForFlux(), b.hint)),
        ["unit0 holds first.safetensors", "unit1 holds a control for Flux", "same base model"],
    ),
    "two sizes in one merge, a host's and the pack's": (
        lambda b: b.merge(b.prompts, b.unit(b.control, b.hint), b.unit(ForUNet(OTHERS["wide"]), b.hint)),
        ["unit0 holds first.safetensors", "unit1 holds a ControlNet for", "width 64", "same base model"],
    ),
    "two sizes in one merge, both a host's": (
        lambda b: b.merge(b.prompts, *(b.unit(ForUNet(c), b.hint) for c in (BASE, OTHERS["wide"]))),
        ["unit0 holds a ControlNet for", "width 32", "width 64", "same base model"],
    ),
    "two families in one merge, one of them unknown": (
        lambda b: b.draw(**b.merge(b.prompts, b.unit(b.control, b.hint), b.unit(Wide(), b.hint))),
        ["shapes", "Merge only controls made for the same base model"],
    ),
    "two families in a chain": (
        lambda b: b.draw(**b.apply(b.apply(b.prompts, Wide(), b.hint), b.control, b.hint)),
        ["shapes", "only controls made for the same base model"],
    ),
    "image on the place of a unit": (
        lambda b: b.call("CNetMerge", **b.prompts, units={"unit3": b.hint}, mode={"mode": "sum"}),
        ["unit3", "Control Unit"],
    ),
    "block weights on the place of a schedule": (
        lambda b: b.apply(
            b.prompts, b.control, b.hint, schedule=b.call("CNetBlockWeights", preset={"preset": "soft"})
        ),
        ["schedule", "Strength Keyframe"],
    ),
    "no control, from a loader that did not know the file": (
        lambda b: b.apply(b.prompts, None, b.hint),
        ["holds no ControlNet but None", "Load ControlNet (CNet)"],
    ),
    "control without a hint": (
        lambda b: b.draw(
            **{k: [[t, {**o, "control": b.control}] for t, o in v] for k, v in b.prompts.items()}
        ),
        ["no hint", "Apply ControlNet"],
    ),
}


class Wide(Adapter):
    """A host's control for a base of other widths."""

    def copy(self) -> "Wide":
        other = Wide()
        self.copy_to(other)
        return other

    def get_control(self, *question):
        value = super().get_control(*question)["output"][0]
        return {"input": [], "middle": [], "output": [value.repeat(1, 2, 1, 1), None, None, None]}


class Inpainting(Adapter):
    """A host's control that reads a mask beside its hint."""

    def __init__(self, *masks: torch.Tensor):
        super().__init__()
        self.concat_mask, self.extra_concat_orig = True, list(masks)

    def copy(self) -> "Inpainting":
        other = Inpainting()
        self.copy_to(other)
        return other


class ForFlux(Adapter):
    """A host's control for Flux: hosts tell the kind by where the class of the network lives."""

    def __init__(self, latent_format: Any = None, types: int = 0):
        super().__init__(latent_format)
        self.control_model = type("ControlNetFlux", (torch.nn.Module,), {"__module__": "comfy.ldm.flux.x"})()
        self.control_model.num_union_modes = types

    def copy(self) -> "ForFlux":
        other = ForFlux(types=self.control_model.num_union_modes)
        self.copy_to(other)
        return other


class HostNet(ControlNet):
    """As the host's own, whose tensors have the same names."""

    __module__ = "comfy.cldm.cldm"


class ForUNet(Adapter):
    """A host's control for a UNet of these sizes."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.control_model = HostNet(config, hint_widths=WIDTHS)

    def copy(self) -> "ForUNet":
        other = ForUNet(self.control_model.config)
        self.copy_to(other)
        return other


@pytest.mark.parametrize("what", REFUSED)
def test_refused(bench, what):
    make, words = REFUSED[what]
    with pytest.raises(ValueError) as raised:
        make(bench)
    assert "CNetError" in {kind.__name__ for kind in type(raised.value).__mro__}, raised.value
    for word in words:
        assert word in str(raised.value), str(raised.value)
