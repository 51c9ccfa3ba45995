"""What does each control say, and where do they contradict each other?"""

from itertools import combinations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..cnet_core.control.compare import agreement, residual_sizes
from ..cnet_core.control.merge import Rule
from ..cnet_core.errors import ControlError
from . import conditioning, host
from .charts import agreement_map, number, sizes_chart
from .inputs import conditioning_inputs, noise_levels, scheduler_input, sigmas_input, steps_input
from .merge import controls_of, units_input


class CompareControls(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetCompareControls",
            display_name="Compare Controls (CNet)",
            category="cnet/merge",
            description=(
                "Samples a little, and shows where controls agree or contradict each other, and how much "
                "each of them says."
            ),
            search_aliases=["conflict map", "controlnet conflict", "analyse controls", "debug controlnet"],
            # It runs for what it shows, whether or not the picture goes on.
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that draws the picture."),
                *conditioning_inputs(),
                units_input(),
                io.Latent.Input("latent_image", tooltip="The latent that sampling starts from."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    # Another one after each run would be another than the sampler's.
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="As in the sampler.",
                ),
                steps_input(),
                io.Float.Input(
                    "cfg", default=8.0, min=0.0, max=100.0, step=0.1, tooltip="As in the sampler."
                ),
                io.Combo.Input("sampler_name", options=host.SAMPLERS, tooltip="As in the sampler."),
                scheduler_input(),
                io.Float.Input(
                    "percent",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip=(
                        "The moment of sampling at which to look, counted as start_percent is: 0 is the "
                        "first step. Sampling stops there."
                    ),
                ),
                sigmas_input("scheduler and steps"),
            ],
            outputs=[
                io.Image.Output(
                    display_name="conflicts",
                    tooltip="A map for each pair of controls: blue agrees, red conflicts, grey neither.",
                ),
                io.String.Output(display_name="sizes", tooltip="How much each control says at each block."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent_image,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        percent,
        units=None,
        sigmas=None,
    ) -> io.NodeOutput:
        controls = controls_of(units, positive + negative)
        if len(controls) < 2:
            raise ControlError(
                f"{len(controls)} of {len(units or {})} units act; expected at least two to compare. Raise "
                "the strengths that are 0, and switch the units on."
            )
        levels = noise_levels(model, scheduler, steps, sigmas=sigmas, sampler=sampler_name)
        sigma = host.sigma_at(model)(percent)
        last = min(len(levels), 1 + sum(level > sigma for level in levels))
        record = host.Record(levels[last - 1])
        recording = host.RecordingControl(controls, Rule(), record)
        prompts = conditioning.attach(recording, positive, negative)
        host.sample_first(
            model, *prompts, latent_image, seed, steps, cfg, sampler_name, scheduler, last, sigmas
        )
        if not record.acted:
            raise ControlError(
                f"the prompt does not act up to {number(percent)} of the sampling, so there is nothing to "
                "compare; raise percent, or let the prompt's own range begin sooner."
            )
        names, blocks = conditioning.names_of(controls), record.residuals()
        sizes = [list(column) for column in zip(*map(residual_sizes, blocks.values()), strict=True)]
        sizes = sizes or [[] for _ in names]
        where = f"step {last} of {len(levels)}, sigma {number(record.sigma)}"
        maps = _maps(names, blocks, record)
        shown = [maps, sizes_chart(f"RMS of the residuals at {where}", list(blocks), names, sizes)]
        table = _table(where, names, list(blocks), sizes)
        notes = _notes(controls, names, blocks, record.acted)
        height, width = record.size
        if record.size != tuple(latent_image["samples"].shape[-2:]):
            notes.append(f"The maps are of a prompt for an area, {8 * width}x{8 * height}, not of the whole.")
        table = "\n".join([table, *notes])
        images = [image for picture in shown for image in ui.PreviewImage(picture).as_dict()["images"]]
        return io.NodeOutput(maps, table, ui={"images": images, "animated": (False,), "text": (table,)})


def _maps(names: list[str], blocks: dict[str, list[Tensor | None]], record: host.Record) -> Tensor:
    """The maps of all pairs [pairs*B,H,W,3], those of a pair together."""
    height, width = (side * 8 for side in record.size)
    said = list(zip(*blocks.values(), strict=True)) or [()] * len(names)
    maps = []
    for i, k in combinations(range(len(names)), 2):
        found = agreement(said[i], said[k], *record.size)
        # Of a silent control it is one for all.
        for values in found.expand(len(record.rows), -1, -1):
            maps.append(agreement_map(values, names[i], names[k], width, height))
    return torch.cat(maps)


def _table(where: str, names: list[str], blocks: list[str], sizes: list[list[float]]) -> str:
    """Blocks down, controls across."""
    lines = [["block", *names]]
    lines += [[block, *(number(row[i]) for row in sizes)] for i, block in enumerate(blocks)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    return "\n".join([f"RMS of the residuals at {where}", *text])


def _notes(
    controls: list[host.Steered], names: list[str], blocks: dict[str, list[Tensor | None]], acted: list[bool]
) -> list[str]:
    """What numbers and maps do not tell: why a control has none, and why two have nothing in common."""
    notes = []
    heard = []
    for i, name in enumerate(names):
        says = {block for block, said in blocks.items() if (own := said[i]) is not None and own.any()}
        heard.append(says)
        if not says and acted[i] and controls[i].within:
            notes.append(f"{name} acts inside the attention, and has no residuals to compare.")
        elif not says:
            notes.append(f"{name} is silent at this step: see its range and schedule.")
    for i, k in combinations(range(len(names)), 2):
        if heard[i] and heard[k] and not heard[i] & heard[k]:
            notes.append(f"{names[i]} and {names[k]} share no block, so their map is grey throughout.")
    return notes
