"""What building a network leaves behind in a process: nothing but modules."""

import subprocess
import sys
from pathlib import Path

import pytest
from published import NETWORKS, quietly, write

from annotators.table import ANNOTATORS

BUILD = """
import os, random, sys, warnings
import cv2, numpy, timm, torch, torchvision
from timm.models import _registry

warnings.simplefilter("error")
environment, arguments, filters = dict(os.environ), list(sys.argv), list(warnings.filters)
registry, states = dict(_registry._model_entrypoints), (torch.get_rng_state(), random.getstate())

from annotators import weights
from annotators.table import ANNOTATORS

assert not {"controlnet_aux", "transformers", "mediapipe"} & sys.modules.keys()
weights.build(ANNOTATORS[sys.argv[1]], [sys.argv[2]])

assert "mediapipe" not in sys.modules and "controlnet_aux" not in sys.modules
assert os.environ == environment and sys.argv == arguments and warnings.filters == filters
assert registry.items() <= _registry._model_entrypoints.items()
assert all(_registry._model_entrypoints[name] is one for name, one in registry.items())
assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
"""


@pytest.mark.parametrize("name", ["teed", "bae", "sam", "depth_anything_small"])
def test_building_prints_nothing_and_changes_nothing(tmp_path, name):
    with quietly():
        write(ANNOTATORS[name], NETWORKS[name](), tmp_path)
    command = [sys.executable, "-c", BUILD, name, str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
