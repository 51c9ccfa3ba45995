"""Claims that need no training, or three steps of it: zero convolutions, composition, prompts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnet_core.control.merge import Rule
from cnet_core.networks.controlnet import ControlNet
from cnet_core.training.batches import Batch
from cnet_core.training.config import Settings
from cnet_core.training.optimizer import make_optimizer
from cnet_core.training.step import Objective, Trainee, draw, losses, predict
from demo.make import HINT_WIDTHS
from demo.report import hint_of
from demo.sample import SUM
from demo.scenes import PALETTE, SIZE, Scene

from .lab import Lab, scenes_of, scores

MODES = ("sum", "average", "normalised", "strongest", "priority")
# Parts of a new ControlNet, in the order in which the paper's section 3.2 says that gradients reach them.
PARTS = ("output zero convolutions", "hint's zero convolution", "copied encoder", "hint encoder")


def zero_convolutions(lab: Lab, seed: int) -> dict[str, Any]:
    """Whether a new network changes what the base says, and which parts gradients reach in three steps."""
    budget, mini = lab.budget, lab.mini
    scenes = scenes_of(seed * budget.scenes, budget.scenes, SIZE)
    net = ControlNet.from_unet(mini.unet, 3, HINT_WIDTHS, torch.Generator().manual_seed(seed))
    net.train().requires_grad_(True)
    captions = [scene.caption for scene in scenes]
    hints = hint_of("depth", scenes).movedim(-1, 1).contiguous()
    batch = Batch(lab.latents(scenes), hints, lab.context(captions), None, (), ())
    noise, timesteps = draw(batch, torch.Generator().manual_seed(seed))
    trainee = Trainee(net)
    with torch.no_grad():
        controlled = predict(mini.unet, trainee, noise, batch, timesteps, "fp32")
        bare = mini.unet(noise, timesteps, batch.context)
    optimizer = make_optimizer(list(net.parameters()), Settings(rate=budget.rate))
    reached: list[dict[str, float]] = []
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        losses(mini.unet, trainee, batch, noise, timesteps, Objective("v")).mean().backward()
        reached.append(gradients(net))
        optimizer.step()
    return {
        "equal": bool(torch.equal(controlled, bare)),
        "gradients": reached,
        "base_unharmed": lab.hash_now() == lab.base_hash,
    }


def gradients(net: ControlNet) -> dict[str, float]:
    """The norm of the gradient of each of PARTS."""
    squares = dict.fromkeys(PARTS, 0.0)
    last = f"input_hint_block.{len(net.input_hint_block) - 1}."
    for name, parameter in net.named_parameters():
        if name.startswith(("zero_convs.", "middle_block_out.")):
            part = PARTS[0]
        elif name.startswith("input_hint_block."):
            part = PARTS[1] if name.startswith(last) else PARTS[3]
        else:
            part = PARTS[2]
        if parameter.grad is not None:
            squares[part] += float(parameter.grad.double().square().sum())
    return {part: square**0.5 for part, square in squares.items()}


def composition(lab: Lab, seed: int) -> dict[str, Any]:
    """Scores by condition: pose and depth alone, and together by each way of merging.

    "agree": both hints are of one scene. "differ": the depth map, and what it is measured by, is the next
    scene's, so that the two contradict each other.
    """
    scenes, draws = _drawing(lab, seed)
    others = [*scenes[1:], scenes[0]]
    found: dict[str, Any] = {}

    def score(name: str, images: Tensor, deep: list[Scene]) -> None:
        found[name] = {"pose": scores("pose", images, scenes), "depth": scores("depth", images, deep)}

    captions = [scene.caption for scene in scenes]
    pose = {"pose": hint_of("pose", scenes)}
    for case, deep in (("agree", scenes), ("differ", others)):
        depth = {"depth": hint_of("depth", deep)}
        alone = {"none": {}, "pose": pose, "depth": depth}
        for name, hints in alone.items():
            if case == "agree" or name == "depth":
                score(f"{case}: {name}", draws(captions, hints), deep)
        for mode in MODES:
            score(f"{case}: {mode}", draws(captions, {**pose, **depth}, Rule(mode)), deep)
    return found


def regions(lab: Lab, seed: int) -> dict[str, Any]:
    """Scores of a pose and the next scene's depth map, each within its own half of the picture.

    The pose's half is that, left or right, which holds more of its figure. Alone, and merged in other ways,
    controls act in the whole picture, and are measured in these halves too.
    """
    scenes, draws = _drawing(lab, seed)
    others = [*scenes[1:], scenes[0]]
    captions = [scene.caption for scene in scenes]
    hints = {"pose": hint_of("pose", scenes), "depth": hint_of("depth", others)}
    halves = {"pose": [left_or_right(scene) for scene in scenes]}
    halves["depth"] = [1 - half for half in halves["pose"]]
    shown = {"pose": scenes, "depth": others}
    parts = {kind: list(map(part, shown[kind], halves[kind])) for kind in hints}
    columns = torch.arange(SIZE).div(SIZE // 2, rounding_mode="floor").expand(len(scenes), SIZE, SIZE)
    masks = {kind: (columns == torch.tensor(half)[:, None, None]).float() for kind, half in halves.items()}
    found: dict[str, Any] = {}

    def score(name: str, images: Tensor) -> None:
        sides = images.unflatten(2, (2, -1))
        cut = {
            kind: torch.stack([side[:, h] for side, h in zip(sides, halves[kind], strict=True)])
            for kind in hints
        }
        found[name] = {kind: scores(kind, cut[kind], parts[kind]) for kind in hints}

    score("none", draws(captions, {}))
    for kind, hint in hints.items():
        score(kind, draws(captions, {kind: hint}))
    for mode in MODES:
        score(mode, draws(captions, hints, Rule(mode)))
    score("regions", draws(captions, hints, Rule("regions"), masks))
    return found


def left_or_right(scene: Scene) -> int:
    """The half that holds more of the scene's figure: 0 for the left one, 1 for the right one."""
    left, right = np.split(scene.figure_mask, 2, axis=1)
    return int(right.sum() > left.sum())


def part(scene: Scene, half: int) -> Scene:
    """What measures read of a scene, of one half of it."""
    image, depth, mask = (
        np.split(whole, 2, axis=1)[half] for whole in (scene.image, scene.depth, scene.figure_mask)
    )
    return replace(scene, image=image, depth=depth, figure_mask=mask)


def prompts(lab: Lab, seed: int) -> dict[str, Any]:
    """Scores by prompt and control, each by the control's own measure, under four kinds of prompt.

    Measures do not depend on colours, of which the prompts say different things.
    """
    scenes, draws = _drawing(lab, seed)
    random = np.random.default_rng([seed, 5])
    kinds = {
        "none": [""] * len(scenes),
        "insufficient": ["a picture"] * len(scenes),
        "conflicting": [conflicting(scene, random) for scene in scenes],
        "full": [scene.caption for scene in scenes],
    }
    bare = draws(kinds["full"], {})
    found = {f"no control: {kind}": scores(kind, bare, scenes) for kind in ("figure", "depth", "canny")}
    for name, captions in kinds.items():
        for kind in ("pose", "depth", "canny"):
            images = draws(captions, {kind: hint_of(kind, scenes)})
            measure = "figure" if kind == "pose" else kind
            found[f"{name}: {measure}"] = scores(measure, images, scenes)
    return found


def conflicting(scene: Scene, random: np.random.Generator) -> str:
    """A caption of a picture without the dancer, in colours that the scene's own caption does not name."""
    absent = [colour for colour in PALETTE if colour not in scene.caption]
    ground, things = random.permutation(absent)[:2]
    return f"a misty picture, {ground} ground, {things} things"


def _drawing(lab: Lab, seed: int) -> tuple[list[Scene], Any]:
    """The scenes of a seed, and what draws them: from captions, hints, a rule and masks."""
    budget = lab.budget
    scenes = scenes_of(seed * budget.scenes, budget.scenes, SIZE)

    def draws(
        captions: list[str],
        hints: Mapping[str, Tensor],
        rule: Rule = SUM,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        return lab.mini.draw(captions, dict(hints), SIZE, seed, budget.sampling, rule=rule, masks=masks)

    return scenes, draws
