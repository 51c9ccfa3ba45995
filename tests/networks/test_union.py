"""The union ControlNet: one network, several types of hint, several hints at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnet_core.control.residuals import Residuals
from cnet_core.errors import ControlError, HintError
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.union import UNION_TYPES, UnionControlNet, check_types, type_ids

from .conftest import CONFIGS, arguments, hint_for, random_unet
from .test_controlnet import WIDTHS, randomised
from .test_unet import KINDS, Namespace


def union(config=CONFIGS["sdxl"], types: int = 8, **options) -> UnionControlNet:
    net = UnionControlNet(config, hint_widths=WIDTHS, types=types, type_channels=6, **options)
    return randomised(net).eval().requires_grad_(False)  # type: ignore[return-value]


def run(net: ControlNet, args: tuple, features) -> Residuals:
    x, timesteps, context, y = args
    return net(x, features, timesteps, context, y)


def same(a: Residuals, b: Residuals) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def close(a: Residuals, b: Residuals) -> bool:
    return all(torch.allclose(one, other, atol=1e-5) for one, other in zip(a, b, strict=True))


def test_types_are_those_of_the_field():
    assert sorted(set(UNION_TYPES.values())) == list(range(8))
    assert type_ids(8) == tuple(UNION_TYPES)
    assert type_ids(6) == tuple(name for name in UNION_TYPES if name not in ("tile", "repaint"))


def test_features_are_made_once_and_are_batch_first(config):
    net = union(config)
    args = arguments(config)
    hint = hint_for(args[0])
    features = net.encode_hints([hint, 1 - hint], [0, 3])
    assert [tuple(f.shape) for f in features] == [(2, 32, 6, 5), (2, 128)]
    before = [f.clone() for f in features]
    first = run(net, args, features)
    assert same(first, run(net, args, features))
    assert all(torch.equal(a, b) for a, b in zip(features, before, strict=True))
    # Rows are images: picked and repeated, they give what those images give.
    picked = run(net, args, tuple(f[[1, 1]] for f in features))
    anew = run(net, args, net.encode_hints([hint[[1, 1]], 1 - hint[[1, 1]]], [0, 3]))
    assert close(picked, anew)


def test_residuals_fit_the_unet(config):
    net, unet, args = union(config), random_unet(config), arguments(config)
    residuals = run(net, args, net.encode_hints([hint_for(args[0])], [1]))
    assert unet(*args, residuals=residuals).shape == args[0].shape
    assert not torch.equal(unet(*args, residuals=residuals), unet(*args))


def test_each_type_says_something_else():
    net, args = union(), arguments(CONFIGS["sdxl"])
    hint = hint_for(args[0])
    answers = [run(net, args, net.encode_hints([hint], [number])).mid for number in range(8)]
    answers.append(run(net, args, net.encode_hint(hint)).mid)
    assert all(not torch.equal(a, b) for i, a in enumerate(answers) for b in answers[:i])


def test_without_a_type_the_hint_is_added_as_a_plain_controlnet_does():
    net, args = union(), arguments(CONFIGS["sdxl"])
    plain = ControlNet(CONFIGS["sdxl"], hint_widths=WIDTHS).requires_grad_(False)
    plain.load_state_dict(net.state_dict(), strict=False)
    hint = hint_for(args[0])
    features, types = net.encode_hint(hint)
    assert torch.equal(features, plain.encode_hint(hint)[0])
    silent = run(net, args, (features, torch.zeros_like(types)))
    assert same(silent, run(plain, args, (features,)))


@settings(max_examples=10)
@given(order=st.permutations([(0, 0.2), (2, 0.5), (5, 0.9), (7, 0.0)]), count=st.integers(1, 4))
def test_the_order_of_the_hints_does_not_matter(order, count):
    config = CONFIGS["sdxl"]
    net, args = union(config), arguments(config)
    chosen = order[:count]

    def answer(pairs):
        hints = [hint_for(args[0]) * level for _, level in pairs]
        return run(net, args, net.encode_hints(hints, [number for number, _ in pairs]))

    assert close(answer(chosen), answer(sorted(chosen)))


def test_one_image_serves_all_rows():
    net, args = union(), arguments(CONFIGS["sdxl"])
    hint = hint_for(args[0])
    one = net.encode_hints([hint, hint[:1]], [0, 1])
    many = net.encode_hints([hint, hint[:1].expand(2, -1, -1, -1)], [0, 1])
    assert [f.shape[0] for f in one] == [2, 2]
    assert close(run(net, args, one), run(net, args, many))


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ([6], r"no type tile; it has 6 types: openpose, depth, .*segment\. Choose"),
        ([0, 7], "no type repaint"),
        ([-1], "no type number -1"),
        ([9], "no type number 9"),
        ([3, 1, 3], "type canny/lineart/anime_lineart/mlsd is given 2 times"),
    ],
    ids=str,
)
def test_types_that_make_no_sense(types, message):
    with pytest.raises(ControlError, match=message):
        check_types(types, 6)
    with pytest.raises(ControlError, match=message):
        union(types=6).encode_hints([torch.rand(1, 3, 16, 16)] * len(types), types)


@pytest.mark.parametrize(("hints", "types"), [(0, []), (1, [0, 1]), (2, [0])])
def test_as_many_types_as_hints(hints, types):
    with pytest.raises(ControlError, match=f"{hints} hints were given with {len(types)} types"):
        union().encode_hints([torch.rand(1, 3, 16, 16)] * hints, types)


@pytest.mark.parametrize("other", [(1, 3, 16, 24), (3, 3, 16, 16)], ids=str)
def test_hints_of_different_shapes(other):
    with pytest.raises(HintError, match="same size"):
        union().encode_hints([torch.rand(2, 3, 16, 16), torch.rand(other)], [0, 1])


def test_a_fresh_network_says_nothing():
    config = CONFIGS["sdxl"]
    args = arguments(config)
    for net in (
        UnionControlNet(config, hint_widths=WIDTHS),
        UnionControlNet.from_unet(random_unet(config), hint_widths=WIDTHS),
    ):
        assert isinstance(net, UnionControlNet)
        residuals = run(net, args, net.encode_hints([hint_for(args[0])], [0]))
        assert not any(block.any() for block in residuals)


def test_layers_and_precision_are_the_given_ones():
    config = CONFIGS["sd15"]
    net = union(config, operations=Namespace, dtype=torch.bfloat16, layers=2)
    layers = [module for module in net.modules() if isinstance(module, KINDS)]
    assert layers and all(type(layer).__qualname__.startswith("Namespace.") for layer in layers)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.bfloat16}
    x, timesteps, context, y = arguments(config)
    features = net.encode_hints([hint_for(x).bfloat16()], [2])
    assert {f.dtype for f in features} == {torch.bfloat16}
    residuals = net(x.bfloat16(), features, timesteps, context.bfloat16(), y)
    assert residuals.mid is not None and residuals.mid.dtype == torch.bfloat16
