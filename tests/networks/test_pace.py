"""Which precision and layout a device is fastest with."""

import pytest
import torch

from cnet_core.errors import ControlError
from cnet_core.networks.pace import Way, fastest, pace, ways

PLAIN, LAST = Way(), Way(memory_format=torch.channels_last)
BF16 = Way(torch.bfloat16)


def test_what_is_simpler_stays_unless_another_is_clearly_faster():
    assert fastest({PLAIN: 1.0, LAST: 0.95, BF16: 0.92}) == PLAIN
    assert fastest({PLAIN: 1.0, LAST: 0.8, BF16: 0.75}) == LAST
    assert fastest({PLAIN: 1.0, LAST: 0.8, BF16: 0.4}) == BF16


def test_a_cpu_is_measured_in_the_precisions_it_computes_with():
    cpu = torch.device("cpu")
    found = pace(cpu)
    assert set(found.seconds) <= set(ways(cpu)) and PLAIN in found.seconds
    assert not any(way.dtype == torch.float16 for way in found.seconds)
    assert found.fastest in found.seconds and all(second > 0 for second in found.seconds.values())
    assert str(found).startswith(str(found.fastest)) and "fp32 " in str(found) and "on cpu" in str(found)
    assert pace(cpu) is found


def test_short_memory_is_no_fact_about_the_device(monkeypatch):
    """Another time is measured anew; what does not even run in fp32 is an error, not a guess."""
    device = torch.device("cpu")
    pace.cache_clear()

    def short(*_):
        raise torch.cuda.OutOfMemoryError("short")

    def unable(*_):
        raise RuntimeError("not here")

    with monkeypatch.context() as patched:
        patched.setattr("cnet_core.networks.pace._blocks", short)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            pace(device)
        patched.setattr("cnet_core.networks.pace._blocks", unable)
        with pytest.raises(ControlError, match="does not run"):
            pace(device)
    assert PLAIN in pace(device).seconds
