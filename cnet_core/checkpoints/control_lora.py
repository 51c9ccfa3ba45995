"""Control-LoRA, Stability AI's format: a ControlNet as a low-rank change of the base UNet's own encoder."""

from ..errors import CheckpointError
from .control_file import ControlFile
from .family import Family
from .low_rank import LowRank, open_low_rank
from .read import StateFile
from .weights import UNET_PREFIXES


def open_control_lora(file: StateFile, family: Family) -> ControlFile:
    """LDM names, `X.up` and `X.down` in place of X.weight, and a marker, `lora_controlnet`.

    The change is up @ down, for convolutions over their flattened kernels, at full strength (there is no
    alpha). Norms, biases, hint encoder and zero convolutions are whole.
    """
    tensors = {name: tensor for name, tensor in file.tensors.items() if name != "lora_controlnet"}
    if "input_hint_block.0.weight" not in tensors:
        raise CheckpointError(
            f"{file.path} is a damaged or incomplete {family.name}: it has no input_hint_block.0.weight, "
            "which gives the size of the network. Download it again."
        )
    return open_low_rank(
        file.path,
        family,
        tensors,
        LowRank.of(file.path, tensors, ".up", ".down"),
        file.metadata,
        needs="unet",
        prefixes=UNET_PREFIXES,
        missing="the weights of the model that it is applied to (connect that SD1.5, SD2.x or SDXL model)",
    )
