"""What every test shares."""

import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import settings

# Machines differ in speed, so no example has a deadline; and a commit passes or fails for everybody alike.
settings.register_profile("cnet", deadline=None, derandomize=True)
settings.load_profile("cnet")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Weights that nobody seeded are the same in every run, alone or among others; before any fixture."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def program(tmp_path):
    """A TorchScript program's file."""

    class Program(torch.nn.Module):
        def forward(self, x):
            return x + 1

    with warnings.catch_warnings():
        # Newer versions of torch would rather have another format.
        warnings.simplefilter("ignore")
        torch.jit.script(Program()).save(tmp_path / "program.pth")
    return tmp_path / "program.pth"
