"""How weights are kept, and what that costs in accuracy."""

import pytest
import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


@pytest.mark.parametrize(("precision", "error"), [("fp32", 0), ("fp16", 0.003), ("bf16", 0.02), ("fp8", 0.3)])
def test_weights_are_kept_as_asked_and_the_picture_stays_close(
    precision, error, call, files, prompts, draw, apply, hint
):
    def control(precision):
        return call("CNetLoadControlNet", control_net_name="first.safetensors", precision=precision)

    plain, exact = draw(**prompts), draw(**apply(prompts, control("auto"), hint))
    net = control(precision)
    assert {p.dtype for p in net.network.net.parameters()} == {DTYPES[precision]}
    drawn = draw(**apply(prompts, net, hint))
    assert (drawn - exact).norm() <= error * (exact - plain).norm()
