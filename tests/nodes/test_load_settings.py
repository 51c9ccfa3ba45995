"""Loading a file twice, compiled, and by the fastest precision."""

import gc
import logging
import weakref

import pytest
import torch
from safetensors.torch import save_file

from cnet_core.checkpoints import read_state_dict
from minihost import shims
from minihost.shims.controlnet import ControlBase

FILE = "first.safetensors"


@pytest.fixture
def load(call, files):
    return lambda name=FILE, **settings: call("CNetLoadControlNet", control_net_name=name, **settings)


def test_a_file_loaded_twice_is_one_copy_while_it_is_used(load):
    first, second = load(), load(global_average_pooling="on")
    assert first.network is second.network
    assert (first.global_average_pooling, second.global_average_pooling) == (False, True)
    for other in (load(precision="bf16"), load(compile=True), load("second.safetensors")):
        assert other.network is not first.network
    network = weakref.ref(first.network)
    del first, second
    gc.collect()
    assert network() is None


@pytest.fixture
def for_flux(files, monkeypatch):
    """A file of a family that hosts load, and what this one's loader was told and gives."""
    save_file(
        {
            "controlnet_blocks.0.weight": torch.zeros(1),
            "double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(1),
        },
        files / "for_flux.safetensors",
    )
    asked = []

    def load_controlnet(path, model=None, model_options={}):  # noqa: B006 (the host's signature)
        asked.append(model_options)
        control = ControlBase()
        control.control_model = torch.nn.Linear(2, 2, dtype=model_options.get("dtype", torch.float32))
        return control

    monkeypatch.setattr(shims.controlnet, "load_controlnet", load_controlnet, raising=False)
    return asked


def test_what_the_hosts_loader_misses_in_a_file_is_an_error(load, for_flux, monkeypatch):
    whole = shims.controlnet.load_controlnet
    missing = "missing controlnet keys: {}"

    def lacks(names):
        def loader(path, **options):
            logging.getLogger().warning(missing.format(names))
            return whole(path, **options)

        monkeypatch.setattr(shims.controlnet, "load_controlnet", loader)

    lacks(["double_blocks.1.img_mlp.0.weight"])
    with pytest.raises(ValueError, match=r"incomplete Flux ControlNet \(XLabs\): 1 missing: double_blocks"):
        load("for_flux.safetensors")
    # Whatever the host is told to log.
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with pytest.raises(ValueError, match="1 missing"):
            load("for_flux.safetensors")
    finally:
        logging.getLogger().setLevel(logging.WARNING)


def test_what_the_base_model_will_give_is_not_missed(load, for_flux, monkeypatch):
    class ControlNetSD35(ControlBase):
        control_model = torch.nn.Linear(2, 2)

    def loader(path, model_options={}):  # noqa: B006 (the host's signature)
        logging.getLogger().warning(
            "missing controlnet keys: ['x_embedder.proj.weight', 'orig_y_embedder.a']"
        )
        return ControlNetSD35()

    monkeypatch.setattr(shims.controlnet, "load_controlnet", loader)
    assert isinstance(load("for_flux.safetensors"), ControlNetSD35)


def test_scales_that_the_hosts_loader_would_ignore_are_an_error(load, for_flux, files):
    tensors = dict(read_state_dict(files / "for_flux.safetensors").tensors)
    save_file({**tensors, "scaled_fp8": torch.zeros(1)}, files / "scaled.safetensors")
    with pytest.raises(ValueError, match="quantised weights"):
        load("scaled.safetensors")


def test_settings_are_named_for_a_family_that_only_the_host_knows(load, for_flux, files, caplog):
    save_file({"novel.weight": torch.zeros(1)}, files / "novel.safetensors")
    load("novel.safetensors", precision="bf16", compile=True)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message.split(": ")[1].split()[0] for message in told] == ["precision", "compile"]


def test_a_precision_is_told_to_the_hosts_loader(load, for_flux, caplog):
    for precision, options in {"auto": {}, "fp16": {"dtype": torch.float16}}.items():
        for_flux.clear()
        load("for_flux.safetensors", precision=precision)
        assert for_flux == [options]
    assert not caplog.records


def test_what_the_hosts_loader_fails_on_is_named_with_its_family(load, for_flux, monkeypatch):
    def fails(path, model_options={}):  # noqa: B006 (the host's signature)
        raise KeyError("pos_embed.proj.weight")

    monkeypatch.setattr(shims.controlnet, "load_controlnet", fails, raising=False)
    with pytest.raises(ValueError, match=r"for_flux.*looks like a Flux ControlNet.*pos_embed\.proj\.weight"):
        load("for_flux.safetensors")


def test_without_mappings_a_network_keeps_nothing_of_its_file(load, monkeypatch):
    mapped = {p.data_ptr() for p in load().network.net.parameters()}
    monkeypatch.setattr(shims.utils, "DISABLE_MMAP", True, raising=False)
    own = load(precision="fp32").network.net
    assert not mapped & {p.data_ptr() for p in own.parameters()}
    assert all(
        torch.equal(a, b) for a, b in zip(own.parameters(), load().network.net.parameters(), strict=True)
    )


def test_settings_that_the_hosts_families_do_not_have_are_named_in_the_log(load, for_flux, caplog):
    load("for_flux.safetensors", global_average_pooling="on", compile=True, overlap=True)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert all("for_flux.safetensors is a Flux ControlNet" in message for message in told)
    assert [message.split(": ")[1].split()[0] for message in told] == [
        "global_average_pooling",
        "compile",
        "overlap",
    ]


def test_a_replaced_file_is_another_network(load, files):
    path = files / "replaced.safetensors"
    path.write_bytes((files / FILE).read_bytes())
    before = load(path.name).network
    path.unlink()
    path.write_bytes((files / "second.safetensors").read_bytes())
    after = load(path.name).network
    assert after is not before
    assert not torch.equal(before.net.zero_convs[0][0].weight, after.net.zero_convs[0][0].weight)


def test_uses_of_one_file_are_one_batch(call, load, unit, merge, prompts, draw, hint):
    passes = []
    shared = load()
    shared.network.net.register_forward_hook(lambda net, inputs, output: passes.append(inputs[0].shape[0]))
    draw(**merge(prompts, unit(shared, hint), unit(load(), 1 - hint)))
    assert passes == [4] * 4


def test_the_fastest_precision_draws_nearly_the_same(load, prompts, draw, apply, hint, nodes):
    net = load(precision="fastest").network
    report = nodes["CNetInspect"].execute(file_name=FILE).args[0]
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[net.dtype]
    assert f"fastest here     {name}" in report
    plain, exact = draw(**prompts), draw(**apply(prompts, load(), hint))
    drawn = draw(**apply(prompts, load(precision="fastest"), hint))
    assert (drawn - exact).norm() <= 0.02 * (exact - plain).norm()
