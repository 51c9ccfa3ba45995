"""Inputs that several nodes share, so that they look and read the same everywhere."""

from comfy_api.latest import io


def conditioning_inputs() -> list[io.Input]:
    return [
        io.Conditioning.Input("positive", tooltip="The prompt: what the picture should show."),
        io.Conditioning.Input("negative", tooltip="The negative prompt: what it should not show."),
    ]


def conditioning_outputs() -> list[io.Output]:
    return [
        io.Conditioning.Output(display_name="positive", tooltip="The prompt, with the control."),
        io.Conditioning.Output(
            display_name="negative", tooltip="The negative prompt, with the same control."
        ),
    ]


def control_inputs() -> list[io.Input]:
    """A ControlNet with its hint."""
    return [
        io.ControlNet.Input(
            "control_net", tooltip="The ControlNet, made for the base model that draws the picture."
        ),
        io.Image.Input(
            "image",
            tooltip=(
                "The hint: edges, a pose, a depth map, ... as this ControlNet was trained on. It is fitted "
                "to the picture's size by cropping to its shape from the centre."
            ),
        ),
    ]


def timing_inputs() -> list[io.Input]:
    """Strength and range, as `cnet_core.control.timing.Timing` takes them."""
    return [
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="How strongly the hint steers: 0 not at all (and at no cost), 1 as trained.",
        ),
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip=(
                "Where in sampling the control sets in; 0 is the first step. The layout is decided early."
            ),
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip=(
                "Where in sampling the control ends; 1 is the last step. Ending early leaves details to the "
                "prompt."
            ),
        ),
    ]


def vae_input() -> io.Input:
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip=(
            "Only for ControlNets that read their hint as a latent (Flux, SD3, ...): the base model's VAE."
        ),
    )
