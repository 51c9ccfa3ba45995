"""Networks of every family that the pack runs itself, through the nodes: the tiny model, random weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cnet_core.checkpoints import save_network
from cnet_core.checkpoints.shapes import config_metadata
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.t2i_adapter import AdapterConfig, T2IAdapter
from minihost import shims

from .conftest import BASE, WIDTHS, randomised

# The mini checkpoints' UNet, whose levels adapters and Control-LoRAs fit.
MINI = UNetConfig(32, (1, 2, 2, 3), context_dim=64, num_head_channels=32, norm_groups=8)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, files) -> Path:
    folder = tmp_path_factory.mktemp("families")
    adapter = randomised(T2IAdapter(AdapterConfig("full", 3, (32, 64, 64, 96))), 2)
    save_network(adapter, folder / "adapter.safetensors", {})
    save_file(control_lora(), folder / "lora.safetensors", config_metadata(MINI))
    pooled = config_metadata(BASE) | {"global_average_pooling": "true"}
    save_network(randomised(ControlNet(BASE, hint_widths=WIDTHS), 3), folder / "shuffle.safetensors", pooled)
    shims.folder_paths.add_model_folder_path("controlnet", str(folder))
    return folder


def control_lora() -> dict[str, torch.Tensor]:
    """As the release's: two factors for each layer of the encoder, the rest whole."""
    tensors = {"lora_controlnet": torch.zeros(0)}
    for name, tensor in randomised(ControlNet(MINI, hint_widths=WIDTHS), 4).state_dict().items():
        own = name.startswith(("input_hint_block", "zero_convs", "middle_block_out"))
        if own or tensor.ndim == 1:
            tensors[name] = tensor
            continue
        stem, (out, into, *kernel) = name.removesuffix(".weight"), tensor.shape
        tensors[f"{stem}.up"] = torch.randn(out, 2, *[1] * len(kernel)) * 0.1
        tensors[f"{stem}.down"] = torch.randn(2, into, *kernel) * 0.1
    return tensors


@pytest.fixture
def load(call, folder):
    def load(name: str, **settings: Any) -> Any:
        return call("CNetLoadControlNet", control_net_name=f"{name}.safetensors", **settings)

    return load


# Union


def test_a_union_network_takes_hints_of_several_kinds_in_one_pass(prompts, draw, load, apply, call, hint):
    union = load("union")
    passes = []
    handle = union.network.net.middle_block_out[0].register_forward_hook(lambda *_: passes.append(1))
    drawn = {}
    for name, hints in {
        "canny": {"canny": hint},
        "depth": {"depth": hint},
        "both": {"canny": hint, "depth": 1 - hint},
    }.items():
        passes.clear()
        drawn[name] = draw(**apply(prompts, call("CNetUnionHints", control_net=union, **hints), None))
        assert len(passes) == 4
    handle.remove()
    drawn["untold"] = draw(**apply(prompts, union, hint))
    pictures = list(drawn.values())
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


def test_each_union_hint_goes_round_by_its_own_number_of_pictures(prompts, draw, load, apply, call, hint):
    """Of two the fourth latent has the second again, of three the first."""
    two, three = torch.cat([hint, 1 - hint]), torch.cat([hint, hint / 2, 1 - hint])

    def drawn(canny: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        union = call("CNetUnionHints", control_net=load("union"), canny=canny, depth=depth)
        return draw(**apply(prompts, union, None, strength=10.0), batch=4)

    found = drawn(two, three)
    for i in range(4):
        alone = drawn(two[i % 2 : i % 2 + 1], three[i % 3 : i % 3 + 1])
        torch.testing.assert_close(found[i], alone[i], rtol=0, atol=1e-4)


def test_the_hosts_own_way_to_set_a_type_does_the_same(prompts, draw, load, apply, call, hint):
    union = load("union")
    tagged = union.copy()
    tagged.set_extra_arg("control_type", [3])
    ours = draw(**apply(prompts, call("CNetUnionHints", control_net=union, canny=hint), None))
    assert torch.equal(draw(**apply(prompts, tagged, hint)), ours)


def test_union_hints_say_what_is_wrong(prompts, load, apply, call, hint):
    union = load("union")
    with pytest.raises(Exception, match=r"no type tile.*6 types: openpose, depth"):
        call("CNetUnionHints", control_net=union, tile=hint)
    with pytest.raises(Exception, match="no hint is given"):
        call("CNetUnionHints", control_net=union)
    with pytest.raises(Exception, match="hints of one kind only"):
        call("CNetUnionHints", control_net=load("shuffle"), canny=hint)
    held = call("CNetUnionHints", control_net=union, canny=hint)
    with pytest.raises(Exception, match="already holds its hints"):
        apply(prompts, held, hint)
    # As the host's own apply node does.
    with pytest.raises(Exception, match="already holds its hints"):
        held.copy().set_cond_hint(hint.movedim(-1, 1), 1.0, (0.0, 1.0))
    with pytest.raises(Exception, match="connect an image"):
        apply(prompts, union, None)


# Pooling


def test_pooling_is_told_by_metadata_or_by_the_user(load, prompts, draw, apply, hint):
    stated, off = load("shuffle"), load("shuffle", global_average_pooling="off")
    assert stated.global_average_pooling and not off.global_average_pooling
    averaged = draw(**apply(prompts, stated, hint))
    assert not torch.equal(averaged, draw(**apply(prompts, off, hint)))


def test_a_shuffle_file_that_states_no_pooling_needs_the_users_word(load, folder):
    silent = "control_v11e_sd15_Shuffle"
    save_network(
        randomised(ControlNet(BASE, hint_widths=WIDTHS), 5),
        folder / f"{silent}.safetensors",
        config_metadata(BASE),
    )
    with pytest.raises(Exception, match=f"{silent}.*global_average_pooling: on if it is"):
        load(silent)
    assert load(silent, global_average_pooling="on").global_average_pooling
    assert not load(silent, global_average_pooling="off").global_average_pooling
    load("shuffle")


# On the mini checkpoints


@pytest.fixture
def mini(call):
    """MODEL, prompts and a way to draw a latent in two steps."""
    model, clip, _ = call("CNetLoadMiniSD")
    prompts = {
        kind: clip.encode_from_tokens_scheduled(clip.tokenize(text))
        for kind, text in (("positive", "a red dancer"), ("negative", ""))
    }

    def draw(positive: list, negative: list) -> torch.Tensor:
        latent = call(
            "KSampler",
            model=model,
            seed=1,
            steps=2,
            cfg=3.0,
            sampler_name="euler",
            scheduler="normal",
            positive=positive,
            negative=negative,
            latent_image={"samples": torch.zeros(1, 4, 8, 8)},
            denoise=1.0,
        )
        return latent["samples"]

    return SimpleNamespace(model=model, prompts=prompts, draw=draw)


def test_a_control_lora_is_merged_with_the_model_that_is_connected(load, mini, apply, hint):
    before = {k: v.clone() for k, v in mini.model.model.diffusion_model.state_dict().items()}
    control = load("lora", model=mini.model)
    drawn = mini.draw(**apply(mini.prompts, control, hint))
    assert drawn.isfinite().all() and not torch.equal(drawn, mini.draw(**mini.prompts))
    after = mini.model.model.diffusion_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(Exception, match="model"):
        load("lora")


def test_a_base_that_a_file_does_not_need_is_named_in_the_log(load, mini, caplog):
    load("shuffle", model=mini.model, base_control_net="first.safetensors")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 2 and all("shuffle.safetensors is a ControlNet" in message for message in told)
    assert "those at model:" in told[0] and "those at base_control_net:" in told[1]
    caplog.clear()
    load("lora", model=mini.model)
    load("shuffle")
    assert not caplog.records


def test_an_adapter_acts_alone_and_merged_with_a_controlnet(load, mini, unit, merge, hint):
    adapter, canny = load("adapter"), load("cnet_mini_canny")
    calls = []
    handle = adapter.network.net.conv_in.register_forward_hook(lambda *_: calls.append(1))
    alone, net = unit(adapter, hint, strength=0.5), unit(canny, hint, strength=0.5)
    pictures = [
        mini.draw(**mini.prompts),
        mini.draw(**merge(mini.prompts, alone, mode="average")),
        mini.draw(**merge(mini.prompts, net, mode="average")),
        mini.draw(**merge(mini.prompts, alone, net, mode="average")),
    ]
    handle.remove()
    # Once per run, not per step.
    assert len(calls) == 2
    assert all(picture.isfinite().all() for picture in pictures)
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


def test_an_adapters_block_weights_begin_with_the_outermost(load, mini, apply, call, hint):
    """Although its list begins with the deepest, as the host reads it."""
    for weights, sides in (("1, 0, 0, 0", 8), ("0, 0, 0, 1", 1)):
        blocks = call("CNetBlockWeights", preset={"preset": "custom", "weights": weights})
        control = apply(mini.prompts, load("adapter"), hint, blocks=blocks)["positive"][0][1]["control"]
        control.pre_run(mini.model.model, lambda percent: 1e9 * (1 - percent))
        cond = {"c_crossattn": torch.cat([mini.prompts["positive"][0][0]] * 2)}
        options = {"cond_or_uncond": [1, 0]}
        answer = control.get_control(torch.zeros(2, 4, 8, 8), torch.ones(2), cond, 2, options)
        assert [r.shape[-1] for r in answer["input"] if r is not None] == [sides]


def test_one_row_of_an_adapter_is_for_all_latents_of_a_chain(answers):
    def said(rows: int) -> dict[str, list]:
        return {"input": [], "middle": [], "output": [torch.ones(rows, 2, 3, 3)]}

    for one, other in ((1, 4), (4, 1)):
        (found,) = answers.add(said(one), said(other))["output"]
        assert found.shape[0] == 4 and found.eq(2).all()


def test_an_adapter_with_a_middle_begins_a_place_before_the_encoder(answers):
    first, second, middle = (torch.full((1,), float(i)) for i in range(3))
    answer = answers.answer_of(answers.Residuals(encoder=[first, second], mid=middle))
    assert answer == {"input": [None, second, first], "middle": [middle], "output": []}
    assert answers.answer_of(answers.Residuals(encoder=[first, second]))["input"] == [second, first]


def test_the_strength_of_an_adapter_is_shown(load, mini, apply, call, hint):
    blocks = call("CNetBlockWeights", preset={"preset": "soft"})
    controlled = apply(mini.prompts, load("adapter"), hint, blocks=blocks)["positive"]
    settings = {"scheduler": "normal", "steps": 3, "denoise": 1.0}
    chart = call("CNetPreviewStrength", positive=controlled, model=mini.model, **settings)
    assert chart.shape[1] > 100


def test_weights_that_are_saved_with_scales_serve_a_control_lora(load, mini, apply, hint):
    """Quantised weights bring themselves to numbers; their scales are in the state dict alone."""
    drawn = mini.draw(**apply(mini.prompts, load("lora", model=mini.model), hint))
    first = mini.model.model.diffusion_model.input_blocks[0][0]
    handle = first.register_state_dict_post_hook(
        lambda module, state, prefix, _metadata: state.update({f"{prefix}weight_scale": torch.ones(())})
    )
    try:
        again = mini.draw(**apply(mini.prompts, load("lora", model=mini.model), hint))
    finally:
        handle.remove()
    assert torch.equal(drawn, again)


def test_an_adapter_for_another_base_is_refused_before_sampling(load, prompts, draw, apply, hint):
    with pytest.raises(Exception, match="12 blocks"):
        draw(**apply(prompts, load("adapter"), hint))


# What a network keeps, and is asked


def test_a_question_about_some_rows_has_all_that_is_of_these_rows(host):
    rows = torch.arange(4)
    cond = {"c_crossattn": rows, "ref_latents": [rows], "whole": torch.arange(3)}
    options = {"cond_or_uncond": [1, 0], "uuids": ["no", "yes"]}
    whole = host.calls.Call(rows[:, None, None, None].float(), rows.float(), cond, 2, options)
    asked = whole.at_rows([3], [1])
    assert (asked.sides, asked.options["uuids"], asked.frames, asked.chunks) == ([0], ["yes"], (1,), 1)
    assert asked.x.flatten().tolist() == asked.t.tolist() == [3]
    assert asked.cond["c_crossattn"].tolist() == asked.cond["ref_latents"][0].tolist() == [3]
    assert asked.cond["whole"].tolist() == [0, 1, 2]


def test_what_is_made_of_a_picture_is_kept_by_its_shape_and_what_else_it_depends_on(host):
    maker, picture = torch.nn.Linear(1, 1), torch.rand(1, 8, 8, 3)
    one, other = (host.kept.kept_for(maker, picture, vae) for vae in ("one", "other"))
    assert one is not other and host.kept.kept_for(maker, picture.clone(), "one") is one
    assert host.kept.kept_for(maker, picture.reshape(1, 4, 16, 3), "one") is not one


def test_what_is_made_of_the_pictures_that_were_asked_for_last_is_kept_and_no_more(host):
    maker = torch.nn.Linear(1, 1)

    def kept(value: int) -> dict:
        return host.kept.kept_for(maker, torch.full((1, 2, 2, 3), float(value)))

    for value in range(16):
        kept(value)["made"] = value
    assert kept(0) == {"made": 0}
    kept(16)
    assert kept(0) == {"made": 0} and kept(1) == {}
