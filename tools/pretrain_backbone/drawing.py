"""Draws sheets of texture: fields of brightness from a dozen families, mixed, lit, coloured.

A sheet depends on nothing but its number and the seed, so sheets can be drawn in any order and by any number of
processes. Families follow what has been shown to be worth training on: noise with natural spectra and dead leaves
(Baradad et al., Learning to See by Looking at Noise, NeurIPS 2021), short shader programs (Baradad et al., Procedural
Image Programs, NeurIPS 2022), fractals (Kataoka et al., Pre-training without Natural Images, IJCV 2022), contours;
and, for this purpose, what surfaces of made things look like: brushed and rolled metal, weave, tiles, grains, cells,
relief under a lamp, almost nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Random = np.random.Generator


def _grid(n: int) -> tuple[Field, Field]:
    axis = np.linspace(-1, 1, n, dtype=np.float32)
    return np.meshgrid(axis, axis)  # type: ignore[return-value]


def _standard(field: Field) -> Field:
    field = field.astype(np.float32)
    return (field - field.mean()) / (field.std() + 1e-6)


def _shaped_noise(rng: Random, n: int, weight: Field) -> Field:
    """Gaussian noise whose amplitude spectrum is ``weight`` (n, n//2+1)."""
    spectrum = np.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32)) * weight
    return _standard(np.fft.irfft2(spectrum, s=(n, n)))


def _frequencies(n: int) -> tuple[Field, Field]:
    return (np.fft.fftfreq(n)[:, None] * n).astype(np.float32), (np.fft.rfftfreq(n)[None] * n).astype(np.float32)


def smooth_noise(rng: Random, n: int, cycles: float) -> Field:
    """Noise of about ``cycles`` blobs across the sheet."""
    fy, fx = _frequencies(n)
    return _shaped_noise(rng, n, np.exp(-(fx**2 + fy**2) / (2 * cycles**2)))


def spectral(rng: Random, n: int) -> Field:
    """Noise with a power-law spectrum, stretched along one direction."""
    fy, fx = _frequencies(n)
    angle, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(0, 2.0))
    u, v = fx * np.cos(angle) + fy * np.sin(angle), -fx * np.sin(angle) + fy * np.cos(angle)
    radius = np.sqrt((u * stretch) ** 2 + v**2 + rng.uniform(0.5, 6) ** 2)
    return _shaped_noise(rng, n, radius ** -rng.uniform(0.3, 2.2))


def banded(rng: Random, n: int) -> Field:
    """Gabor noise: one to three narrow bands of frequency and direction."""
    fy, fx = _frequencies(n)
    weight = np.zeros(fx.shape, np.float32) + fy * 0
    for _ in range(rng.integers(1, 4)):
        angle, centre = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(4), np.log(n / 5)))
        width = centre * rng.uniform(0.05, 0.5)
        for sign in (-1, 1):
            du, dv = fx - sign * centre * np.cos(angle), fy - sign * centre * np.sin(angle)
            weight += np.exp(-(du**2 + dv**2) / (2 * width**2)) * rng.uniform(0.4, 1)
    return _shaped_noise(rng, n, weight)


def brushed(rng: Random, n: int) -> Field:
    """Brushed or rolled metal: streaks along one axis, some single and strong, over a faint grain."""
    fy, fx = _frequencies(n)
    short = np.exp(rng.uniform(np.log(15), np.log(n / 2)))
    streaks = _shaped_noise(rng, n, np.exp(-((fx / short) ** 2) / 2 - (fy / rng.uniform(0.5, 6)) ** 2 / 2))
    tails = np.sign(streaks) * np.abs(streaks) ** rng.uniform(1, 2.5)
    field = _standard(tails) + rng.uniform(0, 0.8) * spectral(rng, n)
    return field if rng.random() < 0.5 else np.ascontiguousarray(field.T)


def leaves(rng: Random, n: int) -> Field:
    """Dead leaves: opaque discs, boxes or polygons of power-law sizes."""
    field = np.full((n, n), rng.uniform(-1, 1), np.float32)
    shape, small, large = rng.integers(3), rng.uniform(2, 8), rng.uniform(12, 50)
    tones = rng.uniform(-1, 1, rng.integers(2, 30))
    for _ in range(int(min(1500, 4 * n * n / (small * large)))):
        size = (small**-1 + rng.random() * (large**-1 - small**-1)) ** -1
        centre, tone = rng.uniform(0, n, 2), float(rng.choice(tones))
        if shape == 0:
            cv2.circle(field, (int(centre[0]), int(centre[1])), int(size), tone, -1)
        else:
            corners = 4 if shape == 1 else int(rng.integers(3, 8))
            angles = (
                np.sort(rng.uniform(0, 2 * np.pi, corners))
                if shape == 2
                else rng.uniform(0, 7) + np.arange(4) * np.pi / 2
            )
            points = centre + size * np.stack([np.cos(angles), np.sin(angles)], 1)
            cv2.fillPoly(field, [points.astype(np.int32)], tone)
    return field


def cells(rng: Random, n: int) -> Field:
    """Distances to scattered or nearly regular points: cells, walls, scales, flat tiles of glass."""
    count = int(np.exp(rng.uniform(np.log(15), np.log(600))))
    side = int(np.ceil(np.sqrt(count))) + 2
    jitter = rng.uniform(0.05, 1)
    y, x = np.mgrid[-1 : side - 1, -1 : side - 1].reshape(2, -1) + 0.5 * (
        1 + jitter * rng.uniform(-1, 1, (2, side * side))
    )
    if rng.random() < 0.3:
        x = x + 0.5 * (np.floor(y) % 2)
    points = np.stack([y, x], 1) * n / (side - 2)
    from scipy.spatial import cKDTree

    aspect = np.array([1, np.exp(rng.uniform(-0.7, 0.7))])
    where = np.mgrid[0:n, 0:n].reshape(2, -1).T.astype(np.float32)
    distance, index = cKDTree(points * aspect).query(where * aspect, k=2)
    mode = rng.integers(4)
    if mode == 0:
        field = distance[:, 0]
    elif mode == 1:
        field = np.minimum(distance[:, 1] - distance[:, 0], rng.uniform(1, 6))
    elif mode == 2:
        field = rng.uniform(-1, 1, len(points))[index[:, 0]]
    else:
        field = np.exp(-((distance[:, 0] / (distance[:, 0].mean() * rng.uniform(0.4, 1))) ** 2))
    return field.reshape(n, n).astype(np.float32)


def shader(rng: Random, n: int) -> Field:
    """A random short program of a few waves, folds and warps of the plane."""
    x, y = _grid(n)
    scale = np.exp(rng.uniform(np.log(2), np.log(14)))
    u, v = x * scale, y * scale
    field = np.zeros_like(x)
    for _ in range(rng.integers(2, 6)):
        a, b, c = rng.uniform(-2, 2, 3)
        step = rng.integers(6)
        if step == 0:
            u, v = u + a * np.sin(b * 2 * v + c), v + b * np.sin(a * 2 * u + c)
        elif step == 1:
            field = field + np.sin(a * 2 * u + b * 2 * v + c * 3)
        elif step == 2:
            field = field + np.abs(np.mod(u * a + v * b, 2) - 1)
        elif step == 3:
            u, v = np.abs(np.mod(u, 4) - 2) - a, np.abs(np.mod(v, 4) - 2) - b
        elif step == 4:
            field = field + np.sin(3 * np.hypot(u - a, v - b) + c)
        else:
            field = np.sin(field * (1 + abs(a))) + 0.5 * np.cos(u * b)
    return field + 0.3 * np.sin(u + v)


def fractal(rng: Random, n: int) -> Field:
    """A few copies of an iterated function system, drawn as the logarithm of visits."""
    maps = rng.integers(2, 5)
    matrices = np.stack(
        [
            (q := np.linalg.qr(rng.standard_normal((2, 2)))[0])
            @ np.diag(rng.uniform(0.3, 0.85, 2))
            @ q.T
            @ np.linalg.qr(rng.standard_normal((2, 2)))[0]
            for _ in range(maps)
        ]
    )
    shifts = rng.uniform(-1, 1, (maps, 2))
    points = rng.uniform(-1, 1, (3000, 2))
    visits = []
    for step in range(26):
        pick = rng.integers(0, maps, len(points))
        points = np.einsum("nij,nj->ni", matrices[pick], points) + shifts[pick]
        if step >= 6:
            visits.append(points)
    cloud = np.concatenate(visits)
    low, high = np.percentile(cloud, [1, 99], axis=0)
    cloud = (cloud - low) / (high - low + 1e-6)
    field = np.zeros((n, n), np.float32)
    for _ in range(rng.integers(1, 8)):
        scale, shift = rng.uniform(0.3, 1.0), rng.uniform(0, 0.7, 2)
        place = np.mod(cloud * scale + shift, 1)
        field += np.histogram2d(place[:, 0], place[:, 1], bins=n, range=((0, 1), (0, 1)))[0].astype(np.float32)
    return np.log1p(field * rng.uniform(0.3, 3))


def contours(rng: Random, n: int) -> Field:
    """Lines of equal height of a smooth noise: wood, marble, fingerprints, maps."""
    height = smooth_noise(rng, n, rng.uniform(1.5, 10))
    if rng.random() < 0.5:
        x, _ = _grid(n)
        height = height * rng.uniform(0.1, 0.6) + x * rng.uniform(1, 6)
    wave = np.sin(height * rng.uniform(4, 25))
    return wave if rng.random() < 0.5 else np.exp(-((wave / rng.uniform(0.1, 0.6)) ** 2))


def tiles(rng: Random, n: int) -> Field:
    """Bricks, checks, dots, mesh or weave on a grid, a little irregular."""
    period, angle = (
        np.exp(rng.uniform(np.log(7), np.log(50))),
        rng.choice([0.0, np.pi / 2, np.pi / 4, rng.uniform(0, np.pi)]),
    )
    y, x = np.mgrid[0:n, 0:n].astype(np.float32)
    bend = rng.uniform(0, 0.15) * period
    x, y = x + bend * smooth_noise(rng, n, 4), y + bend * smooth_noise(rng, n, 4)
    u = (x * np.cos(angle) + y * np.sin(angle)) / period
    v = (y * np.cos(angle) - x * np.sin(angle)) / (period * np.exp(rng.uniform(-0.7, 0.7)))
    mode = rng.integers(5)
    if mode == 0:
        u = u + 0.5 * (np.floor(v) % 2)
        gap = rng.uniform(0.04, 0.2)
        tone = rng.uniform(-1, 1, (97, 89))[np.floor(u).astype(int) % 97, np.floor(v).astype(int) % 89] * rng.uniform(
            0, 0.6
        )
        return np.where((u % 1 < gap) | (v % 1 < gap), -1.5, tone).astype(np.float32)
    if mode == 1:
        return np.sign(np.sin(np.pi * u) * np.sin(np.pi * v)).astype(np.float32)
    if mode == 2:
        return (np.hypot(u % 1 - 0.5, v % 1 - 0.5) < rng.uniform(0.15, 0.45)).astype(np.float32)
    if mode == 3:
        over = (np.floor(u) + np.floor(v)) % 2 == 0
        return np.where(over, np.sin(np.pi * (u % 1)), np.sin(np.pi * (v % 1)) * rng.uniform(0.3, 1)).astype(np.float32)
    return np.maximum(np.sin(2 * np.pi * u), np.sin(2 * np.pi * v) * rng.uniform(0, 1)).astype(np.float32)


def spots_by_reaction(rng: Random, n: int) -> Field:
    """Turing-like spots and labyrinths by a sharpened band-pass, repeated."""
    field = rng.standard_normal((n, n)).astype(np.float32)
    inner = np.exp(rng.uniform(np.log(0.8), np.log(4)))
    bias, ratio = rng.uniform(-0.5, 0.5), rng.uniform(1.4, 2.2)
    for _ in range(8):
        band = cv2.GaussianBlur(field, (0, 0), inner) - cv2.GaussianBlur(field, (0, 0), inner * ratio)
        field = np.tanh(_standard(band) * 2 + bias)
    return field


def fibres(rng: Random, n: int) -> Field:
    """Many thin curves: hair, felt, scratches, cracks."""
    field = np.zeros((n, n), np.float32)
    main, spread = rng.uniform(0, np.pi), rng.choice([0.1, 0.4, 3.0])
    width, curl = int(rng.integers(1, 4)), rng.uniform(0, 0.3)
    for _ in range(int(np.exp(rng.uniform(np.log(15), np.log(350))))):
        angle = main + rng.normal(0, spread) + np.cumsum(rng.normal(0, curl, 12))
        stride = rng.uniform(2, 10)
        points = rng.uniform(0, n, 2) + np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1) * stride, 0)
        cv2.polylines(field, [(points * 8).astype(np.int32)], False, float(rng.uniform(0.3, 1)), width, cv2.LINE_8, 3)
    return cv2.GaussianBlur(field, (0, 0), rng.uniform(0.4, 1.2))


def grains(rng: Random, n: int) -> Field:
    """Scattered round or long grains: dust, pores, rice, sand."""
    size, stretch = np.exp(rng.uniform(np.log(0.8), np.log(6))), np.exp(rng.uniform(0, 1.2))
    points = (rng.random((n, n)) < rng.uniform(0.05, 0.5) / size**2).astype(np.float32) * rng.uniform(
        0.3, 1, (n, n)
    ).astype(np.float32)
    field = (
        cv2.GaussianBlur(points, (0, 0), sigmaX=size, sigmaY=size * stretch)
        if rng.random() < 0.6
        else cv2.dilate(
            points, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (int(2 * size) | 1, int(2 * size * stretch) | 1))
        )
    )
    return _standard(field) * rng.choice([-1, 1])


def objects(rng: Random, n: int) -> Field:
    """Large shaded bodies and rings: what bottles, screws and caps are made of."""
    y, x = np.mgrid[0:n, 0:n].astype(np.float32)
    field = np.zeros((n, n), np.float32)
    for _ in range(rng.integers(3, 12)):
        cx, cy, radius, stretch, angle = (
            *rng.uniform(0, n, 2),
            rng.uniform(8, n / 3),
            np.exp(rng.uniform(-0.9, 0.9)),
            rng.uniform(0, np.pi),
        )
        u = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / radius
        v = ((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) / (radius * stretch)
        distance = np.hypot(u, v) if rng.random() < 0.6 else np.maximum(np.abs(u), np.abs(v))
        inside = np.clip((1 - distance) * radius / rng.uniform(1, 4), 0, 1)
        shade = (
            rng.choice([rng.uniform(-1, 1), 2.0])
            + rng.uniform(-1, 1) * u
            + rng.uniform(-1, 1) * v
            + rng.uniform(-1, 1) * np.sin(distance * rng.uniform(2, 15))
        )
        field = field * (1 - inside) + np.float32(shade) * inside
    return field


FAMILIES: dict[str, Callable[[Random, int], Field]] = {
    "spectral": spectral,
    "banded": banded,
    "brushed": brushed,
    "leaves": leaves,
    "cells": cells,
    "shader": shader,
    "fractal": fractal,
    "contours": contours,
    "tiles": tiles,
    "reaction": spots_by_reaction,
    "fibres": fibres,
    "grains": grains,
    "objects": objects,
}


def _lit(rng: Random, height: Field) -> Field:
    """Relief seen under a lamp from one side."""
    height = cv2.GaussianBlur(height, (0, 0), rng.uniform(0.5, 2))
    dx, dy = cv2.Sobel(height, cv2.CV_32F, 1, 0), cv2.Sobel(height, cv2.CV_32F, 0, 1)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 3) / (np.hypot(dx, dy).mean() + 1e-6)
    slope = (dx * np.cos(angle) + dy * np.sin(angle)) * strength
    return slope / np.sqrt(1 + (dx**2 + dy**2) * strength**2)


def _field(rng: Random, n: int) -> tuple[Field, str]:
    name = str(rng.choice(list(FAMILIES)))
    field = _standard(FAMILIES[name](rng, n))
    kind = rng.random()
    if kind < 0.2:
        field = _standard(_lit(rng, field))
    elif kind < 0.45:
        other = _standard(FAMILIES[str(rng.choice(list(FAMILIES)))](rng, n))
        way = rng.integers(3)
        if way == 0:
            field = field + rng.uniform(0.2, 1) * other
        elif way == 1:
            field = field * (1 + rng.uniform(0.3, 1) * np.tanh(other))
        else:
            field = np.where(smooth_noise(rng, n, rng.uniform(2, 6)) > rng.uniform(-0.7, 0.7), field, other)
    elif kind < 0.55:
        field = np.sign(field) * np.abs(field) ** rng.uniform(0.5, 2)
    return _standard(field), name


def draw_sheet(number: int, seed: int, size: int) -> NDArray[np.uint8]:
    """Sheet ``number`` of the world ``seed``: uint8 (size, size, 3)."""
    rng = np.random.default_rng([seed, number])
    field, _ = _field(rng, size)
    field = np.clip(field, -3.5, 3.5)
    contrast = np.exp(rng.uniform(np.log(0.025), np.log(0.28)))
    base = rng.uniform(0.15, 0.85)
    if rng.random() < 0.45:
        rgb = np.repeat((base + contrast * field)[..., None], 3, -1)
    else:
        tint = rng.normal(0, 0.15, 3)
        slope = 1 + rng.normal(0, 0.5, 3)
        rgb = base + tint + contrast * field[..., None] * slope
        if rng.random() < 0.5:
            rgb = rgb + rng.uniform(0.2, 1) * contrast * _standard(_field(rng, size)[0])[..., None] * rng.normal(
                0, 0.7, 3
            )
    if rng.random() < 0.4:
        rgb = rgb * (1 + rng.uniform(0.03, 0.25) * smooth_noise(rng, size, rng.uniform(0.7, 2.5))[..., None])
    if rng.random() < 0.4:
        rgb = cv2.GaussianBlur(rgb.astype(np.float32), (0, 0), rng.uniform(0.4, 1.4))
    rgb = rgb + rng.normal(0, np.exp(rng.uniform(np.log(0.002), np.log(0.03))), rgb.shape)
    return (rgb.clip(0, 1) * 255).astype(np.uint8)


def draw_sheets(count: int, seed: int, size: int, processes: int = 1) -> NDArray[np.uint8]:
    """Sheets 0 to ``count`` - 1: uint8 (count, size, size, 3); the same whatever ``processes``."""
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial

    draw = partial(draw_sheet, seed=seed, size=size)
    if processes == 1:
        return np.stack([draw(number) for number in range(count)])
    with ProcessPoolExecutor(processes) as pool:
        return np.stack(list(pool.map(draw, range(count), chunksize=64)))


def contact_sheet(sheets: NDArray[np.uint8], columns: int = 16) -> NDArray[np.uint8]:
    """Sheets side by side: uint8 (rows * size, columns * size, 3)."""
    rows = len(sheets) // columns
    size = sheets.shape[1]
    return (
        sheets[: rows * columns]
        .reshape(rows, columns, size, size, 3)
        .swapaxes(1, 2)
        .reshape(rows * size, columns * size, 3)
    )
