"""Mistakes are told at the node where they are made, with the mend, before any sampling."""

import math

import pytest
import torch
from safetensors.torch import save_file

from minihost import shims

from .test_wrong_input import Adapter


def message(raised: pytest.ExceptionInfo) -> str:
    assert {base.__name__ for base in type(raised.value).__mro__} >= {"CNetError", "ValueError"}
    return str(raised.value)


def test_a_control_for_another_text_encoder_is_refused_by_apply(prompts, load, apply, hint):
    with pytest.raises(ValueError) as raised:
        apply(prompts, load("wide_text"), hint)
    assert "wide_text.safetensors" in message(raised)
    assert "width 16" in message(raised) and "width 8" in message(raised)


def test_a_control_for_another_text_encoder_is_refused_by_merge(prompts, load, unit, merge, hint):
    with pytest.raises(ValueError, match="width 16"):
        merge(prompts, unit(load("first"), hint), unit(load("wide_text"), hint))


def test_a_control_for_another_unet_is_refused_before_the_first_step(prompts, draw, load, apply, hint, base):
    controlled = apply(prompts, load("wide"), hint)
    steps = []
    handle = base[0].model.diffusion_model.register_forward_pre_hook(lambda *_: steps.append(1))
    with pytest.raises(ValueError) as raised:
        draw(**controlled)
    handle.remove()
    assert "wide.safetensors" in message(raised)
    assert steps == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_hint_is_refused(prompts, load, apply, unit, hint, value):
    hint[0, 3, 4, 1] = value
    for node in (lambda: apply(prompts, load("first"), hint), lambda: unit(load("first"), hint)):
        with pytest.raises(ValueError) as raised:
            node()
        assert "not finite" in message(raised)


def test_a_hint_of_two_channels_or_of_no_picture_is_refused(prompts, load, apply):
    with pytest.raises(ValueError, match="2 channels"):
        apply(prompts, load("first"), torch.zeros(1, 16, 16, 2))
    with pytest.raises(ValueError, match="at least one image"):
        apply(prompts, load("first"), torch.zeros(0, 16, 16, 3))


@pytest.mark.parametrize("strength", [-0.5, math.nan, math.inf])
def test_a_strength_that_means_nothing_is_refused(prompts, load, apply, unit, hint, strength):
    for node in (apply, lambda _prompts, *args, **settings: unit(*args, **settings)):
        with pytest.raises(ValueError) as raised:
            node(prompts, load("first"), hint, strength=strength)
        assert f"strength is {strength}" in message(raised)


def test_a_range_the_wrong_way_round_is_refused_even_at_strength_0(prompts, load, apply, hint):
    with pytest.raises(ValueError, match="swap"):
        apply(prompts, load("first"), hint, strength=0.0, start_percent=0.8, end_percent=0.2)


def test_something_else_on_a_unit_slot_is_named(prompts, call):
    with pytest.raises(ValueError, match="unit3 is no control unit"):
        call("CNetMerge", **prompts, units={"unit3": "hello"}, mode={"mode": "sum"})


def test_a_control_without_a_hint_is_told_to_be_applied(prompts, draw, load):
    loose = load("first")
    held = {kind: [[t, {**o, "control": loose}] for t, o in entries] for kind, entries in prompts.items()}
    with pytest.raises(ValueError, match="no hint"):
        draw(**held)


@pytest.mark.parametrize("name", ["../secrets.png", "nothing.png", "a/b.png", ""])
def test_only_the_packs_own_examples_are_read(call, name):
    with pytest.raises(ValueError, match="example images"):
        call("CNetExampleImage", name=name)


def test_a_file_that_is_no_controlnet_says_so(call, files, nodes):
    (files / "notes.safetensors").write_text("not a checkpoint at all")
    with pytest.raises(ValueError, match=r"notes\.safetensors"):
        call("CNetLoadControlNet", control_net_name="notes.safetensors")


def test_a_file_of_no_family_goes_to_the_hosts_loader(call, files, prompts, draw, apply, hint, monkeypatch):
    """A newer host knows more families: its loader is asked, and what it makes is steered like the rest."""
    path = files / "novel.safetensors"
    save_file({"novel.weight": torch.zeros(1)}, path)

    def load(**settings):
        return call("CNetLoadControlNet", control_net_name="novel.safetensors", **settings)

    with pytest.raises(ValueError, match="no known family"):
        load()
    answers: list = [Adapter(), None, KeyError("body.0")]

    def hosts_loader(asked: str) -> Adapter | None:
        assert asked == str(path)
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(shims.controlnet, "load_controlnet", hosts_loader, raising=False)
    control = load()
    full, none = draw(**apply(prompts, control, hint)), draw(**apply(prompts, control, hint, strength=0.0))
    mask = torch.zeros(1, 32, 40)
    assert not torch.equal(full, none)
    assert torch.equal(draw(**apply(prompts, control, hint, mask=mask)), none)
    with pytest.raises(ValueError, match="no known family"):
        load()
    with pytest.raises(ValueError, match=r"no known family.*own loader fails on it: KeyError\('body\.0'\)"):
        load()
