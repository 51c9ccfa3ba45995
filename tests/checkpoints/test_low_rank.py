"""Control-LoRA and CtrLoRA: what the file has is merged with its base, and the base stays what it was."""

from dataclasses import replace

import pytest
import torch

from cnet_core.checkpoints import load_controlnet, open_control, read_state_dict
from cnet_core.errors import BaseMismatchError, CheckpointError
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet, LatentControlNet
from cnet_core.networks.unet import UNet

WIDTHS = (8, 8)
SD15 = UNetConfig(16, (1, 2), (1, 1), (1, 0), context_dim=24, num_heads=4, norm_groups=8)
SDXL = UNetConfig(
    16,
    (1, 2),
    (1, 1),
    (0, 2),
    2,
    context_dim=48,
    num_head_channels=8,
    use_linear_in_transformer=True,
    adm_in_channels=20,
    norm_groups=8,
)
RANK = 3
CONTROL_LORA = ".up", ".down"
CTRLORA = ".lora_layer.up.weight", ".lora_layer.down.weight"


def random_state(net, seed):
    torch.manual_seed(seed)
    return {name: 0.05 * torch.randn_like(tensor) for name, tensor in net.state_dict().items()}


def halves(name, weight, ends):
    """Random up and down in place of a weight."""
    out, into, *kernel = weight.shape
    shapes = (out, RANK, *[1] * len(kernel)), (RANK, into, *kernel)
    stem = name.removesuffix(".weight")
    return {stem + end: 0.1 * torch.randn(shape) for end, shape in zip(ends, shapes, strict=True)}


def control_lora_of(config):
    """As the release's files: LoRA of every layer of the encoder; norms, biases, hint and joins whole."""
    base, file = UNet(config, device="meta").state_dict(), {"lora_controlnet": torch.zeros(0)}
    for name, tensor in random_state(ControlNet(config, hint_widths=WIDTHS), 2).items():
        low_rank = name in base and tensor.ndim > 1
        file |= halves(name, tensor, CONTROL_LORA) if low_rank else {name: tensor}
    return file


def ctrlora_of(base):
    """As the release's: LoRA of the linear layers; zero convolutions and the norms that are so called."""
    file = {}
    for name, tensor in base.items():
        if name.startswith(("zero_convs", "middle_block_out")) or "norm" in name:
            file[name] = torch.randn_like(tensor)
        elif tensor.ndim == 2:
            file |= halves(name, tensor, CTRLORA)
    return file


def merged(base, file, ends):
    """By hand: the weights that base and file stand for, W + up @ down."""
    up_end, down_end = ends
    whole = {**base, **{name: tensor for name, tensor in file.items() if not name.endswith(ends)}}
    for stem in [name.removesuffix(up_end) for name in file if name.endswith(up_end)]:
        change = file[stem + up_end].flatten(1) @ file[stem + down_end].flatten(1)
        whole[f"{stem}.weight"] = base[f"{stem}.weight"] + change.view_as(base[f"{stem}.weight"])
    return whole


def without(tensors, *starts):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(starts)}


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def cast(tensors, dtype):
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def assert_equals(net, expected, tolerance=1e-6):
    for name, tensor in net.state_dict().items():
        assert (tensor - expected[name]).abs().max() <= tolerance, name


@pytest.fixture(params=[SD15, SDXL], ids=["sd15", "sdxl"], scope="module")
def config(request):
    return request.param


class TestControlLora:
    @pytest.fixture
    def base(self):
        return random_state(UNet(SD15), 1)

    @pytest.fixture
    def file(self):
        return control_lora_of(SD15)

    def test_merged_with_the_base(self, write, config):
        base, content = random_state(UNet(config), 1), control_lora_of(config)
        before = {name: tensor.clone() for name, tensor in base.items()}
        file = open_control(write(content, config=config))
        assert (file.family.id, file.needs, file.config) == ("control_lora", "unet", config)
        assert file.label.startswith("Control-LoRA for custom width")
        net = file.build(base)
        assert type(net) is ControlNet and (net.config, net.hint_widths) == (config, WIDTHS)
        assert not net.training and not any(p.requires_grad for p in net.parameters())
        assert_equals(net, merged(base, content, CONTROL_LORA))
        assert all(torch.equal(base[name], tensor) for name, tensor in before.items())

    @pytest.mark.parametrize("prefix", ["diffusion_model.", "model.diffusion_model."])
    def test_base_of_a_host_or_a_checkpoint(self, write, base, file, prefix):
        whole = {**prefixed(prefix, base), "first_stage_model.decoder.conv_in.weight": torch.ones(1)}
        net = load_controlnet(write(file, config=SD15), base=whole)
        assert_equals(net, merged(base, file, CONTROL_LORA))

    def test_what_the_file_leaves_out_shares_the_base_s_memory(self, write, config):
        """A convolution, linear layers, norms, and what gives the size of a block."""
        gone = (
            "input_blocks.0.",
            "input_blocks.1.0.out_layers.",
            "time_embed.2.",
            "middle_block.1.proj_in.",
            "middle_block.1.norm.",
        )
        base, file = random_state(UNet(config), 1), without(control_lora_of(config), *gone)
        before = {name: tensor.clone() for name, tensor in base.items()}
        net = load_controlnet(write(file, config=config), base=base)
        assert net.config == config
        assert_equals(net, merged(base, file, CONTROL_LORA))
        for name, tensor in net.state_dict().items():
            shared = name in base and tensor.data_ptr() == base[name].data_ptr()
            assert shared == name.startswith(gone), name
        net.to(torch.float16)
        assert all(torch.equal(base[name], tensor) for name, tensor in before.items())

    def test_the_base_s_parameters_stay_its_own(self, write, file):
        base = dict(UNet(SD15).named_parameters())
        net = load_controlnet(write(without(file, "time_embed."), config=SD15), base=base)
        assert all(parameter.requires_grad for parameter in base.values())
        assert not any(parameter.requires_grad for parameter in net.parameters())

    def test_1x1_convolutions_are_linear_layers(self, write, base, file):
        """The file may have as one what the base has as the other."""
        flat = {name: t.flatten(1) if ".proj_" in name and t.ndim == 4 else t for name, t in file.items()}
        assert_equals(load_controlnet(write(flat, config=SD15), base=base), merged(base, file, CONTROL_LORA))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_the_sum_is_taken_in_fp32_and_rounded_once(self, write, base, file, dtype):
        base, file = cast(base, torch.float16), cast(file, torch.bfloat16)
        path = write(file, config=SD15)
        exact = merged(cast(base, torch.float32), cast(file, torch.float32), CONTROL_LORA)
        for name, tensor in load_controlnet(path, dtype, base=base).state_dict().items():
            assert tensor.dtype == dtype and torch.equal(tensor, exact[name].to(dtype)), name
        assert {p.dtype for p in load_controlnet(path, base=base).parameters()} == {torch.bfloat16}

    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
    def test_fp8_base(self, write, base, file, dtype):
        base, file = cast(base, dtype), without(file, "time_embed.")
        net = load_controlnet(write(file, config=SD15), base=base)
        assert_equals(net, merged(cast(base, torch.float32), file, CONTROL_LORA))

    def test_base_that_dequantises_itself(self, write, base, file):
        base, file = {name: Halved.of(tensor) for name, tensor in base.items()}, without(file, "time_embed.")
        whole = {name: tensor.dequantize() for name, tensor in base.items()}
        net = load_controlnet(write(file, config=SD15), base=base)
        assert_equals(net, merged(whole, file, CONTROL_LORA))
        assert {type(tensor) for tensor in net.state_dict().values()} == {torch.Tensor}

    def test_base_with_scales_beside_its_weights(self, write, base, file):
        base = {**base, "time_embed.0.weight_scale": torch.ones(())}
        with pytest.raises(CheckpointError, match=r"quantised.*time_embed.0.weight_scale.*dequantised"):
            load_controlnet(write(file, config=SD15), base=base)

    def test_without_base(self, write, file):
        with pytest.raises(CheckpointError, match=r"Control-LoRA: it needs .*connect that.*none was given"):
            load_controlnet(write(file, config=SD15))

    def test_base_that_is_no_unet(self, write, file):
        with pytest.raises(CheckpointError, match=r"what was given has no input_blocks.0.0.weight"):
            load_controlnet(write(file, config=SD15), base={"double_blocks.0.weight": torch.ones(1)})

    def test_base_of_another_family(self, write, file):
        match = r"for custom width 16 .* text 24, but the model is custom width 16 .* text 48"
        with pytest.raises(BaseMismatchError, match=match):
            load_controlnet(write(file, config=SD15), base=random_state(UNet(SDXL), 1))

    def test_base_of_other_inner_sizes(self, write, file):
        """An inpainting model: the same family, but nine channels into its first convolution."""
        base = random_state(UNet(replace(SD15, in_channels=9)), 1)
        match = r"input_blocks.0.0.weight is \(16, 4, 3, 3\) in the file, \(16, 9, 3, 3\) in the base"
        with pytest.raises(BaseMismatchError, match=match):
            load_controlnet(write(file, config=SD15), base=base)

    @pytest.mark.parametrize(
        "gone",
        ["zero_convs.1.0.weight", "middle_block_out.0.bias", "input_hint_block.0.", "time_embed.0.down"],
    )
    def test_missing(self, write, base, file, gone):
        with pytest.raises(CheckpointError, match=rf"{gone}.*Download it again"):
            load_controlnet(write(without(file, gone), config=SD15), base=base)

    def test_without_hint_encoder(self, write, file):
        with pytest.raises(CheckpointError, match=r"Control-LoRA: it has no input_hint_block.0.weight"):
            open_control(write(without(file, "input_hint_block."), config=SD15))

    def test_halves_that_do_not_fit(self, write, file):
        with pytest.raises(CheckpointError, match=r"LoRA of time_embed.0 is .* cannot be multiplied"):
            open_control(write({**file, "time_embed.0.down": torch.ones(RANK + 1, 16)}, config=SD15))

    def test_unexpected(self, write, base, file):
        with pytest.raises(CheckpointError, match=r"1 unexpected: surprise.weight"):
            load_controlnet(write({**file, "surprise.weight": torch.ones(1)}, config=SD15), base=base)


class TestCtrLora:
    @pytest.fixture
    def base(self):
        return random_state(LatentControlNet(SD15, 4, ()), 3)

    @pytest.fixture
    def file(self, base):
        return ctrlora_of(base)

    @pytest.mark.parametrize("prefix", ["", "control_model."])
    def test_merged_with_the_base(self, write, config, prefix):
        base = random_state(LatentControlNet(config, 4, ()), 3)
        content = ctrlora_of(base)
        # A base file carries the LoRA of one of its own conditions, which has no say here.
        own = {name: torch.ones_like(tensor) for name, tensor in content.items() if name.endswith(CTRLORA)}
        base_file = read_state_dict(write(prefixed(prefix, {**base, **own}), "base.safetensors"))
        file = open_control(write(prefixed(prefix, content), config=config))
        assert (file.family.id, file.needs) == ("ctrlora", "controlnet")
        net = file.build(base_file.tensors)
        assert type(net) is LatentControlNet and net.config == config
        assert_equals(net, merged(base, content, CTRLORA))
        for name, tensor in base.items():
            assert torch.equal(base_file.tensors[prefix + name], tensor)

    def test_sizes_are_told_before_there_is_a_base(self, write, config):
        content = ctrlora_of(random_state(LatentControlNet(config, 4, ()), 3))
        found = open_control(write(content, config=config)).config
        assert found.residual_channels == config.residual_channels
        assert found.residual_scales == config.residual_scales
        assert (found.context_dim, found.adm_in_channels) == (config.context_dim, config.adm_in_channels)

    def test_a_whole_file_is_checked_without_its_weights(self, write, base):
        open_control(write(base, config=SD15)).check()
        opened = open_control(write({**base, "surprise.weight": torch.ones(1)}, config=SD15))
        with pytest.raises(CheckpointError, match=r"1 unexpected: surprise.weight"):
            opened.check()

    def test_another_network_without_hint_encoder(self, write, base):
        """DiffBIR reads the degraded picture's latent beside its own."""
        wide = {**base, "input_blocks.0.0.weight": torch.zeros(16, 8, 3, 3)}
        with pytest.raises(CheckpointError, match=r"reads 8 channels.*another network"):
            open_control(write(wide, config=SD15))

    def test_whole_file_is_a_network_with_its_own_lora(self, write, base, file):
        own = {name: tensor for name, tensor in file.items() if name.endswith(CTRLORA)}
        opened = open_control(write({**base, **own}, config=SD15))
        assert (opened.needs, opened.config, opened.hint_channels) == (None, SD15, 4)
        assert_equals(opened.build(), merged(base, own, CTRLORA))

    def test_whole_file_without_lora(self, write, base):
        file = open_control(write(base, config=SD15))
        assert file.family.id == "ctrlora"
        assert_equals(file.build(), base, 0)

    def test_without_base(self, write, file):
        with pytest.raises(CheckpointError, match=r"CtrLoRA: it needs the base ControlNet.*none was given"):
            load_controlnet(write(file, config=SD15))

    def test_lora_as_base(self, write, file):
        with pytest.raises(CheckpointError, match=r"what was given has no input_blocks.0.0.weight"):
            load_controlnet(write(file, config=SD15), base=file)

    def test_ordinary_controlnet_as_base(self, write, file):
        base = random_state(ControlNet(SD15, hint_widths=WIDTHS), 1)
        with pytest.raises(CheckpointError, match=r"an ordinary ControlNet, with a hint encoder of its own"):
            load_controlnet(write(file, config=SD15), base=prefixed("control_model.", base))

    def test_base_of_another_family(self, write, file):
        base = random_state(LatentControlNet(SDXL, 4, ()), 1)
        with pytest.raises(BaseMismatchError, match=r"for custom width .*, but the model is custom width"):
            load_controlnet(write(file, config=SD15), base=base)

    @pytest.mark.parametrize("gone", ["zero_convs.1.0.weight", "time_embed.0.lora_layer.down.weight"])
    def test_missing(self, write, base, file, gone):
        with pytest.raises(CheckpointError, match=rf"{gone}.*Download it again"):
            load_controlnet(write(without(file, gone), config=SD15), base=base)


class Halved(torch.Tensor):
    """A quantised tensor as hosts have them: it holds other numbers than it stands for."""

    @staticmethod
    def of(tensor):
        return (tensor / 2).as_subclass(Halved)

    def dequantize(self):
        return self.as_subclass(torch.Tensor) * 2
