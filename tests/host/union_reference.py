"""Run by a host's own Python: ComfyUI's union ControlNet on the weights and inputs of a file.

python union_reference.py HOST_FOLDER IN.safetensors OUT.safetensors [IN OUT ...]
Each IN holds `weights.*`, the inputs x, hint, timesteps, context and y, and in its metadata the `arguments`
of the network and the control `types` (JSON). OUT gets the residuals 0, 1, ... in encoder order, the middle
last.
"""

import json
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

root, *files = sys.argv[1:]
sys.path.insert(0, root)
# What follows reads the host's own command line.
sys.argv[1:] = ["--cpu", "--use-pytorch-cross-attention"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cldm.cldm  # noqa: E402
import comfy.ops  # noqa: E402


@torch.no_grad()
def answer(source: str) -> dict[str, torch.Tensor]:
    """The network of one file, run on its inputs."""
    with safe_open(source, "pt") as file:
        arguments, types = (json.loads(file.metadata()[key]) for key in ("arguments", "types"))
    tensors = load_file(source)
    weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
    inputs = {name: t for name, t in tensors.items() if not name.startswith("weights.")}
    network = comfy.cldm.cldm.ControlNet(
        **arguments, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    network.load_state_dict(weights)
    found = network.eval()(**inputs, control_type=types)
    blocks = [*found["output"], *found["middle"]]
    return {str(i): block.contiguous() for i, block in enumerate(blocks)}


for source, target in zip(files[::2], files[1::2], strict=True):
    save_file(answer(source), target)
