"""What building and running a network leaves behind in a process: nothing but modules."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from published import NETWORKS, quietly, write
from test_neural import SLOW, VALUES

from annotators.table import ANNOTATORS

MANNERS = """
import json, logging, os, random, sys, warnings
import cv2, numpy, timm, torch, torchvision
from timm.models import _registry

name, folder, values = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
warnings.simplefilter("error")
pictures = torch.rand(1, 48, 80, 3)


def state():
    return {
        "environment": dict(os.environ),
        "arguments": list(sys.argv),
        "folder": os.getcwd(),
        "module paths": list(sys.path),
        "warning filters": list(warnings.filters),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "torch's chances": torch.get_rng_state().tolist(),
        "numpy's chances": str(numpy.random.get_state()),
        "Python's chances": random.getstate(),
        "threads": (torch.get_num_threads(), cv2.getNumThreads()),
        "number format": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
    }


def check(when):
    now = state()
    assert not (changed := [key for key in now if now[key] != before[key]]), f"{when} changes {changed}"
    # What timm knew is as it was.
    registry = _registry._model_entrypoints
    assert all(registry.get(key) is one for key, one in entries.items()), f"{when} changes timm's registry"
    assert "mediapipe" not in sys.modules and "controlnet_aux" not in sys.modules, when


before, entries = state(), dict(_registry._model_entrypoints)
from annotators import run, weights
from annotators.table import ANNOTATORS

check("importing")
assert "transformers" not in sys.modules
net = weights.build(ANNOTATORS[name], [folder])
check("building")
run.annotate(ANNOTATORS[name], pictures, values, net=net, seed=1)
check("running")
"""


# Others of the same network are as slow, and differ little.
FIRST = {network: name for name, network in reversed(NETWORKS.items())}.values()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FIRST and name not in SLOW else pytest.mark.slow)
        for name in NETWORKS
    ],
)
def test_importing_building_and_running_prints_nothing_and_changes_nothing(tmp_path, name):
    with quietly():
        write(ANNOTATORS[name], NETWORKS[name](), tmp_path)
    command = [sys.executable, "-c", MANNERS, name, str(tmp_path), json.dumps(VALUES.get(name, {}))]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_network_of_the_registry_is_tested():
    """By one of its sizes."""
    tested = {ANNOTATORS[name].annotate for name in NETWORKS}
    assert all(one.build is None or one.annotate in tested for one in ANNOTATORS.values())
