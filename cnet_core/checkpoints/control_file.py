"""An opened ControlNet file: everything but the network, which is built from it on request."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..networks.blocks import Attention, sdpa
from ..networks.config import UNetConfig
from ..networks.controlnet import ControlNet, LatentControlNet
from .bases import base_name, check_base
from .family import Family
from .shapes import MissingTensorError, controlnet_config, global_average_pooling
from .text import printable
from .weights import Weight, refuse_quantised

Net = TypeVar("Net", bound=nn.Module)

# The mend for a file that is not what its names say.
VARIANT = "Download it again, and if it is complete, it is a variant that this pack does not know."

_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


# Of a file and the base that it was given, if any: the same network as a file that needs no base.
Join = Callable[["ControlFile", Mapping[str, Tensor] | None], "ControlFile"]


@dataclass(frozen=True, eq=False)
class ControlFile:
    """A ControlNet in a file, sizes known, weights still on disk.

    tensors: by LDM name without prefix. needs: the network is this file's tensors and a base's, and `build`
    must be given those of a UNet or of another ControlNet file; `join` makes one of the two. name_in_file:
    from LDM name to the file's own, for messages. network: makes the empty network, called like ControlNet.
    union_types: the kinds of hint that a union ControlNet takes, by their names in UNION_TYPES.
    global_average_pooling: whether its residuals are to be averaged over the image (see
    control.residuals.pooled); None where the file does not say.
    """

    path: Path
    family: Family
    config: UNetConfig
    hint_channels: int
    hint_widths: tuple[int, ...]
    tensors: Mapping[str, Weight] = field(repr=False)
    needs: Literal["unet", "controlnet"] | None = None
    join: Join | None = field(default=None, repr=False)
    name_in_file: Callable[[str], str] = field(default=str, repr=False)
    network: Callable[..., ControlNet] = field(default=ControlNet, repr=False)
    union_types: tuple[str, ...] = ()
    global_average_pooling: bool | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights; one that holds them all where the file mixes them."""
        return file_dtype(self.tensors)

    @property
    def label(self) -> str:
        """One line for people: family, base model, precision and size."""
        return f"{self.family.name} for {base_name(self.config)}, {size_label(self.tensors)}"

    def check_base(self, base: UNetConfig, name: str) -> None:
        """Raise BaseMismatchError, naming both, if the network was made for another base."""
        check_base(self.config, base, name)

    def build(
        self,
        base: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
        attention: Attention = sdpa,
    ) -> ControlNet:
        """The network with the file's weights, ready for inference, on the CPU.

        base: state dict of the UNet, or tensors of the ControlNet file, that `needs` asks for, with or
        without the usual prefix, in any float precision; never changed, but where nothing is added to them,
        the network shares its tensors. dtype: cast to it; without, weights keep the file's precision and
        are not copied but mapped from the file.
        Raises CheckpointError for missing or unexpected keys and wrong shapes, BaseMismatchError for a base
        of another family.
        """
        dtype = dtype or self.dtype
        if self.join is not None:
            return self.join(self, base).build(None, dtype, operations, attention)

        def make(layers: Any, dtype: torch.dtype | None) -> ControlNet:
            return self._network(layers, attention, dtype)

        return filled(self.path, self.tensors, make, dtype, operations, self.name_in_file)

    def check(self) -> None:
        """Raise CheckpointError as `build` does for what is wrong in the file itself, without building.

        Of a file that needs a base's weights only the sizes were looked at, when it was opened.
        """
        if self.needs is None:
            whole = self if self.join is None else self.join(self, None)
            check_tensors(self.path, whole.tensors, self._network(nn, sdpa, None), self.name_in_file)

    def _network(self, layers: Any, attention: Attention, dtype: torch.dtype | None) -> ControlNet:
        sizes = self.config, self.hint_channels, self.hint_widths
        try:
            return self.network(*sizes, layers, attention, dtype, torch.device("meta"))
        except (ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"{self.path} describes an impossible network: {error}. Download it again."
            ) from error


def control_file(
    path: Path,
    family: Family,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    needs: Literal["unet", "controlnet"] | None = None,
    join: Join | None = None,
    name_in_file: Callable[[str], str] = str,
) -> ControlFile:
    """A ControlFile of LDM-named tensors, its sizes read from their shapes."""
    with reading(path, family, name_in_file):
        config, hint_channels, hint_widths = controlnet_config(tensors, metadata)
        pooling = global_average_pooling(metadata)
    return ControlFile(
        path,
        family,
        config,
        hint_channels,
        hint_widths,
        tensors,
        needs,
        join,
        name_in_file,
        # Without a hint encoder, the hint is a latent.
        network=ControlNet if hint_widths else LatentControlNet,
        global_average_pooling=pooling,
    )


@contextmanager
def reading(path: Path, family: Family, name_in_file: Callable[[str], str]) -> Iterator[None]:
    """Turn what goes wrong while sizes are read from shapes into a CheckpointError about the file."""
    try:
        yield
    except MissingTensorError as error:
        problem = f"it has no {name_in_file(error.name)}, which gives the size of the network"
        raise CheckpointError(
            f"{path} is a damaged or incomplete {family.name}: {problem}. {VARIANT}"
        ) from None
    except (ValueError, IndexError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} is a damaged or incomplete {family.name}: {error}. {VARIANT}"
        ) from error


def filled(
    path: Path,
    tensors: Mapping[str, Weight],
    make: Callable[[Any, torch.dtype | None], Net],
    dtype: torch.dtype,
    operations: Any = nn,
    name_in_file: Callable[[str], str] = str,
) -> Net:
    """The network that `make` makes of these layers, with the tensors cast to dtype, ready for inference.

    make: from a namespace of layers and a dtype to the network without weights, on torch's meta device.
    Raises CheckpointError as check_tensors does.
    """
    # A host's layers may have no weights before they are given any (ComfyUI's with dynamic VRAM), and then
    # take any shape: what is expected is asked of torch's own.
    outline = make(nn, None)
    check_tensors(path, tensors, outline, name_in_file)
    net = outline if operations is nn else make(operations, dtype)
    net.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    return net.eval().requires_grad_(False)


def check_tensors(
    path: Path, tensors: Mapping[str, Weight], net: nn.Module, name_in_file: Callable[[str], str] = str
) -> None:
    """Raise CheckpointError unless the tensors are exactly the network's, by name and shape, and numbers."""
    refuse_quantised(path, tensors)
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    problems = []
    if missing := [name_in_file(name) for name in expected if name not in tensors]:
        problems.append(f"{len(missing)} missing: {_some(missing)}")
    if unexpected := [name_in_file(name) for name in tensors if name not in expected]:
        problems.append(f"{len(unexpected)} unexpected: {_some(unexpected)}")
    wrong = [
        f"{name_in_file(name)} is {tuple(tensors[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if wrong:
        problems.append(f"{len(wrong)} of another shape: {_some(wrong)}")
    if whole := [
        name_in_file(name)
        for name in expected
        if name in tensors and not tensors[name].dtype.is_floating_point
    ]:
        problems.append(f"{len(whole)} of whole numbers: {_some(whole)}")
    if problems:
        raise CheckpointError(
            f"{path} does not hold the tensors of a {type(net).__name__} ({'; '.join(problems)}). {VARIANT}"
        )


def file_dtype(tensors: Mapping[str, Weight]) -> torch.dtype:
    """The precision of the tensors; one that holds them all where they differ."""
    dtypes = {tensor.dtype for tensor in tensors.values()}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def size_label(tensors: Mapping[str, Weight]) -> str:
    """Precision and number of parameters, like "fp16, 361.3 M parameters"."""
    names = {_PRECISIONS.get(t.dtype, str(t.dtype).removeprefix("torch.")) for t in tensors.values()}
    return f"{'/'.join(sorted(names))}, {sum(t.numel() for t in tensors.values()) / 1e6:.1f} M parameters"


def _some(items: list[str], count: int = 3) -> str:
    return ", ".join(printable(item, 200) for item in items[:count]) + (", ..." if len(items) > count else "")
