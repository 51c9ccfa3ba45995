"""Synthetic scenes: dancers and solids on a misty plain, with their pose, depth and edge hints.

See demo/mist.py for the air and the camera. Layout and colours come from separate seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from demo import skeleton as sk
from demo.mist import HAZE, Camera, Canvas, Colour, lambert

__all__ = ["HAZE", "PALETTE", "SIZE", "VOCABULARY", "Scene", "draw_scene", "scene_batch"]

# Sides of the pictures that the mini checkpoints draw.
SIZE = 128
PALETTE: dict[str, Colour] = {
    "red": (0.90, 0.07, 0.0),
    "orange": (1.0, 0.45, 0.0),
    "yellow": (0.98, 0.82, 0.0),
    "green": (0.10, 0.68, 0.0),
    "teal": (0.0, 0.66, 0.58),
    "blue": (0.0, 0.24, 0.92),
    "purple": (0.40, 0.0, 0.80),
    "magenta": (0.93, 0.0, 0.56),
}
VOCABULARY = [
    *PALETTE,
    *("a", "and", "dancer", "ground", "in", "mist", "misty"),
    *("on", "over", "picture", "the", "things", "with"),
]


@dataclass(frozen=True)
class Scene:
    """One picture and everything known about it. H = W = size."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    depth: np.ndarray  # float32 [H, W], 1 near, 0 infinitely far: the transmission t of the mist
    keypoints: np.ndarray  # float32 [P, 18, 3], pixels x, y and confidence (always 1)
    figure_mask: np.ndarray  # bool [H, W], where a figure is
    caption: str
    figure_colour: Colour  # RGB albedo of the figures

    @functools.cached_property
    def pose(self) -> np.ndarray:
        """The OpenPose BODY_18 skeletons on black, uint8 [H, W, 3], RGB. Drawn when first asked for."""
        return sk.draw_skeleton(self.keypoints, *self.figure_mask.shape)

    @functools.cached_property
    def edges(self) -> np.ndarray:
        """Canny edges of the image with thresholds 100 and 200, uint8 [H, W], 0 or 255."""
        return cv2.Canny(cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY), 100, 200)


@dataclass(frozen=True)
class _Solid:
    """A thing that stands on the plain at column x; base and radius in picture heights, as they appear."""

    kind: int  # of _SOLIDS
    x: float
    base: float
    radius: float
    distance: float
    albedo: Colour


def _polygon(canvas: Canvas, where: tuple[slice, slice], points: np.ndarray) -> np.ndarray:
    """Anti-aliased coverage of a convex polygon given in picture heights [n, 2], corners clockwise."""
    x, y = canvas.x[where], canvas.y[where]
    inside: np.ndarray = np.full(x.shape, np.inf, np.float32)
    for (ax, ay), (bx, by) in zip(points.tolist(), np.roll(points, -1, axis=0).tolist(), strict=True):
        length = max(np.hypot(bx - ax, by - ay), 1e-6)
        inside = np.minimum(inside, ((y - ay) * (bx - ax) - (x - ax) * (by - ay)) / float(length))
    return np.clip(inside * canvas.size + 0.5, 0, 1)


def _sphere(canvas: Canvas, camera: Camera, solid: _Solid, rng: np.random.Generator) -> None:
    x, base, radius, distance = solid.x, solid.base, solid.radius, solid.distance
    where = canvas.window(x - radius, base - 2 * radius, x + radius, base)
    nx, ny = (canvas.x[where] - x) / radius, (canvas.y[where] - (base - radius)) / radius
    square = nx * nx + ny * ny
    cover = np.clip((1 - np.sqrt(square)) * radius * canvas.size + 0.5, 0, 1)
    nz = np.sqrt(np.maximum(1 - square, 0))
    canvas.paint(where, cover, lambert(nx, ny, nz), distance - 0.5 * radius * distance * nz, solid.albedo)


def _round(canvas: Canvas, camera: Camera, solid: _Solid, rng: np.random.Generator, top: float) -> None:
    """A cylinder (top = 1) or a cone (top = 0): width at the tip relative to the base."""
    x, base, radius, distance = solid.x, solid.base, solid.radius, solid.distance
    height = radius * rng.uniform(1.5, 2.7)
    flat = min(max((base - camera.level(x)) * 0.45, 0.06), 0.4) * radius  # the base ellipse's half height
    where = canvas.window(x - radius, base - height - radius, x + radius, base + flat)
    u = np.clip((base - canvas.y[where]) / height, 0, 1)
    half = radius * (1 + (top - 1) * u)
    offset = (canvas.x[where] - x) / np.maximum(half, 1e-4)
    drop = np.sqrt(np.maximum(1 - ((canvas.x[where] - x) / radius) ** 2, 0))
    inside = np.minimum((half - np.abs(canvas.x[where] - x)), base + flat * drop - canvas.y[where])
    cover = np.clip(np.minimum(inside, canvas.y[where] - (base - height)) * canvas.size + 0.5, 0, 1)
    nx = np.clip(offset, -1, 1)
    nz = np.sqrt(1 - nx * nx)
    lean = 0.35 * (1 - top)
    shade = lambert(nx * (1 - lean), -lean, nz * (1 - lean))
    canvas.paint(where, cover, shade, distance - 0.5 * radius * distance * nz, solid.albedo)
    if top:
        seen = (base - height - camera.level(x)) * 0.45  # the lid is seen only from above
        lid = max(seen, 0.0) * radius
        if lid * canvas.size > 0.5:
            across, down = (canvas.x[where] - x) / radius, (canvas.y[where] - base + height) / lid
            cover = np.clip((1 - np.sqrt(across**2 + down**2)) * lid * canvas.size + 0.5, 0, 1)
            canvas.paint(where, cover, 1.0, distance, solid.albedo)


def _box(canvas: Canvas, camera: Camera, solid: _Solid, rng: np.random.Generator) -> None:
    """A box turned about the vertical, its corners put through the camera; the three faces that may show."""
    x, radius, distance = solid.x, solid.radius, solid.distance
    turn = rng.uniform(0.2, np.pi / 2 - 0.2)
    size, height = radius * distance * rng.uniform(0.85, 1.1), radius * distance * rng.uniform(1.1, 2.6)
    angles = turn + np.arange(4) * np.pi / 2
    depth = distance + size * (np.sin(angles) + 1)  # the nearest corner may not stand before `distance`
    world_x = (x - 0.5) * (distance + size) + size * np.cos(angles)
    across = 0.5 + world_x / depth
    eye = 1 - camera.horizon
    level = camera.level(x)
    low = np.stack([across, level + eye / depth], 1)
    high = np.stack([across, level + (eye - height) / depth], 1)
    corners = np.concatenate([low, high])
    where = canvas.window(*corners.min(0), *corners.max(0))
    if height < eye:
        canvas.paint(where, _polygon(canvas, where, high), 1.0, float(depth.mean()), solid.albedo)
    for i in range(4):
        j = (i + 1) % 4
        if across[i] >= across[j]:  # corners run from right to left on the far side
            continue
        normal = np.array([np.cos(angles[i] + np.pi / 4), 0.0, -np.sin(angles[i] + np.pi / 4)])
        face = _polygon(canvas, where, np.stack([high[i], high[j], low[j], low[i]]))
        share = np.clip((canvas.x[where] - across[i]) / (across[j] - across[i]), 0, 1)
        far = depth[i] + share * (depth[j] - depth[i])
        canvas.paint(where, face, float(lambert(*normal)), far, solid.albedo)


def _cylinder(canvas: Canvas, camera: Camera, solid: _Solid, rng: np.random.Generator) -> None:
    _round(canvas, camera, solid, rng, top=1.0)


def _cone(canvas: Canvas, camera: Camera, solid: _Solid, rng: np.random.Generator) -> None:
    _round(canvas, camera, solid, rng, top=0.0)


_SOLIDS = (_sphere, _box, _cone, _cylinder)


def _ridge(canvas: Canvas, camera: Camera, rng: np.random.Generator, distance: float, albedo: Colour) -> None:
    """A line of hills that stands on the plain at `distance`."""
    x = canvas.x[0]
    tall = rng.uniform(0.1, 0.42) * (0.35 + camera.horizon)
    wave = np.zeros_like(x)
    for n in (1, 2, 3.3, 5.1):
        wave += rng.uniform(0.3, 1) / n * np.sin(2 * np.pi * (n * 0.55 * x + rng.random()))
    crest = camera.level(x) - tall * (0.55 + 0.42 * wave)
    foot = camera.foot(x, distance)
    where = canvas.window(0, float(crest.min()), 1, float(foot.max()))
    y = canvas.y[where]
    cover = np.clip(np.minimum(y - crest, foot - y) * canvas.size + 0.5, 0, 1)
    # The side of a hill that faces the light is brighter.
    shade = np.clip(0.8 - 0.5 * np.gradient(crest, 1 / canvas.size), 0.5, 1.0).astype(np.float32)
    canvas.paint(where, cover, shade, distance, albedo)


def _place_figures(rng: np.random.Generator, camera: Camera) -> list[tuple[np.ndarray, float, float]]:
    """One figure, or two beside each other: (joints [18, 2] in picture heights, scale, distance) each."""
    slots = [(0.02, 0.98)] if rng.random() < 0.8 else [(0.015, 0.49), (0.51, 0.985)]
    figures = []
    for left, right in slots:
        distance = rng.uniform(1.03, 1.4)
        for attempt in range(24):
            pose = sk.random_pose(rng, calm=attempt >= 20)
            scale = rng.uniform(0.58, 0.9) if len(slots) == 1 else rng.uniform(0.55, 0.66)
            edge = sk.LIMB_RADIUS * scale * 1.1
            low, high = pose.min(0) * scale - edge, pose.max(0) * scale + edge
            low[1] = min(low[1], (pose[sk.NOSE, 1] - sk.HEAD_RADIUS) * scale)
            room = right - left - (high[0] - low[0])
            x = left - low[0] + rng.random() * max(room, 0)
            foot = camera.foot(x, distance)
            y = min(foot, 0.975) - high[1]
            if room >= 0 and y + low[1] >= 0.02:
                break
        else:  # unreachable in practice: a calm figure is narrow; keep it inside the picture all the same
            y = 0.02 - low[1]
        figures.append((pose * scale + np.array([x, y]), scale, distance))
    return figures


def _capsules(p: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, float, float, float]]:
    """The figure's body as tapered capsules (start, end, radius at each, height); radii in scales."""
    r = sk.LIMB_RADIUS
    chest = p[sk.NECK] + 0.28 * ((p[sk.R_HIP] + p[sk.L_HIP]) / 2 - p[sk.NECK])
    pelvis = (p[sk.R_HIP] + p[sk.L_HIP]) / 2
    parts = [
        (chest, pelvis, 0.09, 0.076, 0.0),
        (p[sk.R_SHOULDER], p[sk.L_SHOULDER], 0.05, 0.05, 0.0),
        (p[sk.R_HIP], p[sk.L_HIP], 0.06, 0.06, 0.0),
        (p[sk.NECK], p[sk.NOSE], 0.038, 0.038, 0.0),
        (p[sk.NOSE], p[sk.NOSE], sk.HEAD_RADIUS, sk.HEAD_RADIUS, 0.03),
    ]
    for shoulder, hip, lift in ((sk.R_SHOULDER, sk.R_HIP, 0.05), (sk.L_SHOULDER, sk.L_HIP, 0.07)):
        parts += [
            (p[shoulder], p[shoulder + 1], r * 1.04, r * 0.98, lift),
            (p[shoulder + 1], p[shoulder + 2], r * 0.98, r * 0.98, lift),
            (p[hip], p[hip + 1], r * 1.3, r * 1.06, lift - 0.03),
            (p[hip + 1], p[hip + 2], r * 1.06, r, lift - 0.03),
        ]
    return parts


def _paint_figure(
    canvas: Canvas, joints: np.ndarray, scale: float, distance: float, albedo: Colour, mask: np.ndarray
) -> None:
    """Paint one figure, joints [18, 2] in picture heights, and mark it in the mask (bool [H, W])."""
    margin = sk.HEAD_RADIUS * scale
    where = canvas.window(*(joints.min(0) - margin), *(joints.max(0) + margin))
    shape = canvas.x[where].shape
    cover, shade = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    relief = np.full(shape, -1, np.float32)  # how far the surface stands out towards the camera
    top, left = where[0].start, where[1].start
    for start, end, r0, r1, lift in _capsules(joints):
        r0, r1, lift = r0 * scale, r1 * scale, lift * scale
        reach = max(r0, r1)
        part = canvas.window(*(np.minimum(start, end) - reach), *(np.maximum(start, end) + reach))
        local = tuple(
            slice(max(s.start - o, 0), max(min(s.stop - o, n), 0))
            for s, o, n in zip(part, (top, left), shape, strict=True)
        )
        px, py = canvas.x[where][local], canvas.y[where][local]
        (x0, y0), (ax, ay) = start.tolist(), (end - start).tolist()
        dx, dy = px - x0, py - y0
        along = np.clip((dx * ax + dy * ay) / max(ax * ax + ay * ay, 1e-9), 0, 1)
        radius = r0 + (r1 - r0) * along
        nx, ny = (dx - along * ax) / radius, (dy - along * ay) / radius
        length = np.sqrt(nx * nx + ny * ny)
        alpha = np.clip((1 - length) * radius * canvas.size + 0.5, 0, 1)
        nz = np.sqrt(np.maximum(1 - length * length, 0))
        height = np.where(alpha > 0, lift + radius * nz, -1)
        front = height > relief[local]
        relief[local] = np.where(front, height, relief[local])
        shade[local] = np.where(front, lambert(nx, ny, nz), shade[local])
        np.maximum(cover[local], alpha, out=cover[local])
    soft = cv2.GaussianBlur(np.where(cover > 0, shade, 0), (0, 0), 0.8)
    weight = cv2.GaussianBlur((cover > 0).astype(np.float32), (0, 0), 0.8)
    canvas.paint(where, cover, soft / np.maximum(weight, 1e-3), distance - np.maximum(relief, 0), albedo)
    mask[where] |= cover > 0.5


def _caption(rng: np.random.Generator, figure: str, ground: str, things: Sequence[str]) -> str:
    """Colours only. "A dancer" says nothing of how many there are, nor the order of the colours of places."""
    ordered = [name for name in PALETTE if name in things]
    listed = " and ".join(ordered)
    return (
        f"a {figure} dancer, {listed} things, {ground} ground, mist",
        f"a {figure} dancer on {ground} ground with {listed} things in mist",
        f"a misty picture, {figure} dancer, {ground} ground, {listed} things",
    )[rng.integers(3)]


def draw_scene(seed: int, size: int = SIZE, colours_from: int | None = None) -> Scene:
    """Draw the scene of a seed.

    seed: any non-negative integer; the same seed always gives the same scene.
    size: height and width in pixels, at least 64.
    colours_from: take the colours and so the caption from this seed instead, and the layout from `seed`.
    """
    rng = np.random.default_rng([seed, 0])
    paint = np.random.default_rng([seed if colours_from is None else colours_from, 1])
    names = [list(PALETTE)[i] for i in paint.permutation(len(PALETTE))]
    things = names[2 : 3 + paint.integers(3)]
    caption = _caption(paint, names[0], names[1], things)
    figure_colour, ground_colour = PALETTE[names[0]], PALETTE[names[1]]

    canvas = Canvas(size)
    camera = Camera(rng.uniform(0.2, 0.75), rng.uniform(-0.12, 0.12))
    below = canvas.y - camera.level(canvas.x)
    distance = (1 - camera.horizon) / np.maximum(below, 1e-3)
    shades: np.ndarray = 0.92 - 0.12 * np.abs(canvas.x - 0.35)

    figures = _place_figures(rng, camera)
    nearest = max(d for _, _, d in figures) + 0.35
    slots = rng.permutation(3)[: len(things)]
    solids = []
    for slot, name in zip(slots, things, strict=True):
        far = nearest + 2.6 * rng.random() ** 1.3
        x = (slot + rng.uniform(0.15, 0.85)) / 3
        radius = rng.uniform(0.24, 0.55) / far
        solids.append(_Solid(int(rng.integers(4)), x, camera.foot(x, far), radius, far, PALETTE[name]))
    solids.sort(key=lambda solid: -solid.distance)

    for solid in solids:
        canvas.darken_ground(solid.x + 0.3 * solid.radius, solid.base, 1.25 * solid.radius, 0.55, shades)
    for joints, scale, _ in figures:
        x = float(joints[[sk.R_ANKLE, sk.L_ANKLE], 0].mean())
        y = float(joints[:, 1].max() + sk.LIMB_RADIUS * scale)
        canvas.darken_ground(x + 0.05 * scale, y, 0.26 * scale, 0.5, shades)
    cover = np.clip(below * size + 0.5, 0, 1)
    canvas.paint((slice(None), slice(None)), cover, shades, distance, ground_colour)
    for far in sorted(rng.uniform(4.5, 11, rng.integers(0, 4)), reverse=True):
        _ridge(canvas, camera, rng, float(far), ground_colour)
    for solid in solids:
        _SOLIDS[solid.kind](canvas, camera, solid, rng)
    mask = np.zeros((size, size), bool)
    for joints, scale, near in figures:
        _paint_figure(canvas, joints, scale, near, figure_colour, mask)

    image = np.ascontiguousarray(np.round(canvas.image.transpose(1, 2, 0) * 255).astype(np.uint8))
    points = np.stack([joints for joints, _, _ in figures]) * size - 0.5
    keypoints = np.concatenate([points, np.ones((len(points), 18, 1))], 2).astype(np.float32)
    return Scene(
        image=image,
        depth=canvas.depth,
        keypoints=keypoints,
        figure_mask=mask,
        caption=caption,
        figure_colour=figure_colour,
    )


def scene_batch(seeds: Sequence[int], size: int = SIZE) -> dict[str, np.ndarray | list[str]]:
    """Scenes stacked: image, pose uint8 [N, H, W, 3]; depth float32, edges uint8, figure_mask bool [N, H, W];
    figure_colour float32 [N, 3]; caption, a list of N strings."""
    scenes = [draw_scene(int(seed), size) for seed in seeds]
    names = ("image", "pose", "depth", "edges", "figure_mask")
    batch: dict[str, np.ndarray | list[str]] = {n: np.stack([getattr(s, n) for s in scenes]) for n in names}
    batch["figure_colour"] = np.array([s.figure_colour for s in scenes], np.float32)
    batch["caption"] = [s.caption for s in scenes]
    return batch
