"""Compiled control networks: the same residuals, and one set of graphs for all networks, hints and sizes."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from benchmarks.measure import peak_bytes
from cnet_core.networks.blocks import Build, ResBlock, Text
from cnet_core.networks.compiled import check_compiles, compile_blocks
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet

REPO = Path(__file__).parents[2]
CONFIG = UNetConfig(32, (1, 2), (2, 1), (1, 1), context_dim=8, num_heads=2)


def network(seed: int) -> ControlNet:
    torch.manual_seed(seed)
    net = ControlNet(CONFIG, hint_widths=(4, 8, 8, 16))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval().requires_grad_(False)


def run(net: ControlNet, batch: int = 2, rows: int = 8, columns: int = 12, strength: float = 1.0):
    generator = torch.Generator().manual_seed(batch + rows)
    x = torch.randn(batch, 4, rows, columns, generator=generator)
    hint = strength * torch.rand(batch, 3, 8 * rows, 8 * columns, generator=generator)
    text = Text(torch.randn(batch, 7, 8, generator=generator))
    timesteps = torch.full((batch,), 500.0)
    return list(net(x, net.encode_hint(hint), timesteps, text))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_no_network_hint_or_size_of_a_family_is_compiled_twice():
    counter = CompileCounter()
    first, second = network(1), network(2)
    expected = [run(net, *sizes) for net in (first, second) for sizes in ((2, 8, 12), (4, 16, 10))]
    for net in (first, second):
        compile_blocks(net, counter)
    found = [run(first)]
    # Blocks of 32 and 64 channels, the transition between them, and transformers of both widths.
    assert counter.frame_count == 5
    found += [run(first, 4, 16, 10), run(second), run(second, 4, 16, 10)]
    run(second, 3, 24, 24, strength=0.3)
    assert counter.frame_count == 5
    for ours, plain in zip(found, expected, strict=True):
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_no_size_of_pictures_and_batches_is_left_uncompiled():
    """torch makes graphs of their own for square pictures and for batches of one."""
    counter, net = CompileCounter(), network(1)
    compile_blocks(net, counter)
    sizes = [(2, 8, 8), (2, 8, 12), (1, 8, 8), (1, 8, 12)]
    for size in sizes:
        run(net, *size)
    compiled = counter.frame_count
    assert compiled > 8
    for batch, rows, columns in sizes:
        run(net, batch, 2 * rows, 2 * columns)
    assert counter.frame_count == compiled
    # In a wider network of the same kind all is new, and still compiled.
    wide = ControlNet(UNetConfig(96, (1, 2), (2, 1), (1, 1), context_dim=8, num_heads=2))
    compile_blocks(wide, counter)
    before = counter.frame_count
    run(wide)
    assert counter.frame_count == before + 5


def test_a_copy_of_a_compiled_network_is_plain_and_says_the_same():
    net, counter = network(1), CompileCounter()
    expected = run(net)
    compile_blocks(net, counter)
    twin = copy.deepcopy(net)
    assert all(torch.equal(a, b) for a, b in zip(run(twin), expected, strict=True))
    assert counter.frame_count == 0


@pytest.mark.skipif(not shutil.which("g++"), reason="compiling on a CPU needs g++")
def test_a_compiled_convolution_brings_no_copy_of_its_weights_along():
    """Inductor would copy them to another memory format at each call, which makes it the slower one."""
    block = ResBlock(64, 64, 128, Build()).eval().requires_grad_(False)
    x, emb = torch.randn(2, 64, 4, 6), torch.randn(2, 128)
    expected, plain = block(x, emb), peak_bytes(lambda: block(x, emb))
    compile_blocks(block)
    torch.testing.assert_close(block(x, emb), expected, rtol=1e-5, atol=1e-5)
    assert peak_bytes(lambda: block(x, emb)) <= plain


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_machine_that_compiles_is_let_through():
    check_compiles(torch.device("cpu"))


def test_a_machine_that_cannot_compile_is_told_what_to_switch_off(tmp_path):
    """Before sampling, and again at the next try: a compiler may be installed meanwhile."""
    script = (
        "import torch; from cnet_core.errors import ControlError; "
        "from cnet_core.networks.compiled import check_compiles\n"
        "for _ in range(2):\n"
        "    try: check_compiles(torch.device('cpu'))\n"
        "    except ControlError as error: print(error)"
    )
    environment = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, env=environment, capture_output=True, text=True
    )
    assert ended.stdout.count("Switch compile off, or mend that: a C++ compiler") == 2, ended.stderr
