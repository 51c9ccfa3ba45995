"""The tiny pack, loaded once as minihost loads a pack."""

import sys
from pathlib import Path

import pytest

from minihost import loader, shims

PACK = Path(__file__).parent / "tinypack"


@pytest.fixture(scope="session")
def nodes():
    return loader.load_nodes(PACK)


@pytest.fixture(scope="session")
def info(nodes):
    return loader.object_info(nodes)


@pytest.fixture
def tiny(nodes):
    """The tiny pack's module, with what it wrote down cleared."""
    module = sys.modules[nodes["TinyLoad"].__module__]
    module.runs.clear()
    module.events.clear()
    shims.model_management.interrupt_current_processing(False)
    yield module
    shims.model_management.interrupt_current_processing(False)


@pytest.fixture
def folders(tmp_path):
    """Input, output and temporary folders of one test."""
    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        shims.folder_paths.set_directory(kind, tmp_path / kind)
    return tmp_path


def picture_prompt(**changes):
    """A prompt that samples a 32 x 40 picture with the tiny model; `changes` replace KSampler's inputs."""
    return {
        "1": {"class_type": "TinyLoad", "inputs": {"prediction": "v"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "one"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "two"}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 40, "height": 32, "batch_size": 1}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["3", 0],
                "latent_image": ["4", 0],
                "seed": 7,
                "steps": 3,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
                **changes,
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "tiny/a"}},
    }


@pytest.fixture(name="picture_prompt")
def picture_prompt_fixture():
    return picture_prompt
