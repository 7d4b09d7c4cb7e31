"""Find the shapes of an image by analysis: what Mask2Former and CLIP are to GenEval, this is to the shapes world.

Pixels unlike the background (in Lab) form components. How far each pixel lies from the background around it towards the
component's colour near it is its soft coverage; and the coverage inside its own box, resampled to a 24 x 24 grid, is
compared with the renderer's outlines, sharp and blurred. A component is read as one thing of any colours, as things
of one colour each that touch, and as thick parts joined by thin bridges; the reading that fits best holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contrapose.evaluate.verdict import Detection, Thresholds
from contrapose.pixels import lab
from contrapose.worlds.shapes.render import BACKGROUND, COLORS, PALETTE, SHAPES, coverage

THRESHOLDS = Thresholds(score=0.6, counting_score=0.7)

_FOREGROUND = 28.0  # Lab distance to the background from which a pixel belongs to some object
_WRONG_COLOR = 100.0  # RGB distance to the palette beyond which a thing is no object of this world
_SHARE = 0.22  # of a component's core that a colour needs to be a thing of its own
_LEAST_PIXELS = 12
_LEAST_CORE = 6
_SOFT = 2  # pixels that a thing's soft edge reaches out of its component
_EDGE = 3  # pixels, which a thing's soft edge is narrower than, and in which its background is looked for
_REACH = 2.0  # pixels, standard deviation, over which a piece's colour is averaged
_SMOOTHING = 0.6  # pixels; tames noise, and the blurred templates expect soft edges anyway
_NECK = 2.0  # pixels below the outline that no bridge between things is deep, so that an eye looks past it
_TIP = 2.5  # pixels, beyond a neck's depth, that the corners of a thing reach out of its thick part
_GRID = 24
_TEMPLATE_BLURS = (0.3, 0.6, 0.9, 1.3, 1.8)  # pixels, at a radius of 11
_EIGHT = np.ones((3, 3), dtype=bool)
_FOUR = ndimage.generate_binary_structure(2, 1)
_BACKGROUND_LAB = lab(np.array(BACKGROUND))
_PALETTE_RGB = np.array([PALETTE[name] for name in COLORS], dtype=np.float64)

_Piece = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""The pixels of what may be one thing, and those around and in it that nothing else claims."""
_Reading = list[tuple[str, Detection]]
"""Objects by shape."""


@dataclass(frozen=True)
class ShapesDetector:
    """The analytic detector; implements `evaluate.verdict.Detector`."""

    def detect(self, image: NDArray[np.uint8]) -> dict[str, list[Detection]]:
        """Every object as the shape that fits it best; things of no palette colour are left out."""
        detections: dict[str, list[Detection]] = {name: [] for name in SHAPES}
        smooth = _smoothed(image)
        unlike = _unlike_background(lab(smooth))
        # the soft edges of things are theirs, not the background's
        behind = ~ndimage.binary_dilation(unlike, _EIGHT, iterations=_EDGE)
        labels, _ = ndimage.label(unlike, _EIGHT)
        for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
            # all that is looked at lies near the component, and a window of the image is fast
            window = (_widened(rows), _widened(columns))
            component = labels[window] == index
            if component.sum() < _LEAST_PIXELS:
                continue
            # the soft edge lies up to two pixels outside the component, unless another one starts there
            free = component | ~unlike[window] & ndimage.binary_dilation(component, _EIGHT, iterations=_SOFT)
            for shape, detection in _read(component, free, smooth[window], behind[window]):
                detections[shape].append(_placed(detection, window, labels.shape))
        return detections

    def color(self, image: NDArray[np.uint8], detection: Detection, class_name: str) -> str:
        """The palette colour that most of the object's eroded interior is nearest to, in RGB."""
        names, _ = _named(_smoothed(image)[_core(detection.mask)])
        return COLORS[np.bincount(names).argmax()]


def foreground(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels that are unlike the background, [h, w]."""
    return _unlike_background(lab(_smoothed(image)))


def shape_fidelity(detections: Mapping[str, Sequence[Detection]], least: float = THRESHOLDS.score) -> float:
    """Mean score of the accepted objects: soft IoU with the ideal outline, aspect error included; 0 for none."""
    scores = [detection.score for detection in _accepted(detections, least)]
    return float(np.mean(scores)) if scores else 0.0


def artefact_rate(
    image: NDArray[np.uint8], detections: Mapping[str, Sequence[Detection]], least: float = THRESHOLDS.score
) -> float:
    """Share of the foreground that no accepted object explains; 0 for an empty image.

    Masks are widened by one pixel, since the foreground's threshold lies below the half coverage at which masks end.
    """
    seen = foreground(image)
    explained = np.zeros(seen.shape, dtype=bool)
    for detection in _accepted(detections, least):
        explained |= detection.mask
    explained = ndimage.binary_dilation(explained, _EIGHT)
    return float((seen & ~explained).sum() / max(seen.sum(), 1))


def _accepted(detections: Mapping[str, Sequence[Detection]], least: float) -> Iterator[Detection]:
    """Yield the objects of all shapes whose score is above `least`."""
    for objects in detections.values():
        yield from (detection for detection in objects if detection.score > least)


def _smoothed(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return ndimage.gaussian_filter(image.astype(np.float64), (_SMOOTHING, _SMOOTHING, 0), mode="nearest", truncate=3.0)


def _unlike_background(colors: NDArray) -> NDArray[np.bool_]:
    return np.linalg.norm(colors - _BACKGROUND_LAB, axis=-1) > _FOREGROUND


def _named(pixels: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The numbers of the palette's colours nearest to RGB values [..., 3], and the distances to them.

    Blends of two colours are straight lines in RGB, so that they are named by their larger share; in Lab, the nearest
    to a blend of blue and green is black.
    """
    distances = np.linalg.norm(pixels[..., None, :] - _PALETTE_RGB, axis=-1)
    return distances.argmin(axis=-1), distances.min(axis=-1)


def _core(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The interior, away from blended edges; a thing too thin to have one is its own core."""
    # corners wear away under eight neighbours, so a thin thing gets a second try with four
    for neighbours in (_EIGHT, _FOUR):
        eroded = ndimage.binary_erosion(mask, neighbours)
        if eroded.sum() >= _LEAST_CORE:
            return eroded
    return mask


def _widened(side: slice) -> slice:
    """A component's rows or columns, and as many around it as its soft edge and its background take."""
    return slice(max(side.start - _SOFT - _EDGE, 0), side.stop + _SOFT + _EDGE)


def _placed(detection: Detection, window: tuple[slice, slice], shape: tuple[int, ...]) -> Detection:
    """A window's detection in the image."""
    rows, columns = window
    x0, y0, x1, y1 = detection.box
    mask = np.zeros(shape, dtype=bool)
    mask[window] = detection.mask
    return Detection((x0 + columns.start, y0 + rows.start, x1 + columns.start, y1 + rows.start), mask, detection.score)


def _read(
    component: NDArray[np.bool_], free: NDArray[np.bool_], smooth: NDArray[np.float64], behind: NDArray[np.bool_]
) -> _Reading:
    """The objects of a component: one of any colours, or several that touch, whichever explains it best."""
    readings = []
    for pieces in ([(component, free)], _by_color(component, free, smooth), _at_necks(component, free)):
        reading: _Reading = []
        for piece, around in pieces:
            reading += _objects(piece, around, smooth, behind)
        readings.append(reading)
    return max(readings, key=_explained)


def _by_color(component: NDArray[np.bool_], free: NDArray[np.bool_], smooth: NDArray[np.float64]) -> list[_Piece]:
    """The component as things of one colour each that touch; empty where it has one colour."""
    core = _core(component)
    nearest = np.full(component.shape, -1)
    nearest[component] = _named(smooth[component])[0]
    shares = np.bincount(nearest[core], minlength=len(COLORS)) / core.sum()
    solid = []
    for color in np.flatnonzero(shares > _SHARE):
        # a rim where red fades to grey passes for pink, but has no interior
        interior = ndimage.binary_erosion(nearest == color, _FOUR)
        if interior.sum() >= _LEAST_CORE:
            solid.append(color)
    if len(solid) < 2:
        return []
    # each pixel, the free ones too, goes to the nearest of the colours that have an interior
    several = np.array(solid)
    owner = several[np.linalg.norm(smooth[..., None, :] - _PALETTE_RGB[several], axis=-1).argmin(axis=-1)]
    pieces = []
    for color in several:
        piece = component & (owner == color)
        pieces.append((piece, free & (piece | ~component)))
    return pieces


def _at_necks(component: NDArray[np.bool_], free: NDArray[np.bool_]) -> list[_Piece]:
    """The component as thick parts and what lies near each, without the thin bridges between them; empty for one."""
    thick, number = ndimage.label(ndimage.distance_transform_edt(component) > _NECK, _EIGHT)
    if number < 2:
        return []
    # a thick part lies as deep below the outline as a neck; what reaches further than its corners is a bridge
    distance, nearest = ndimage.distance_transform_edt(thick == 0, return_indices=True)
    owner = np.where(distance <= _NECK + _TIP, thick[tuple(nearest)], 0)
    return [(component & (owner == index), free & (owner == index)) for index in range(1, number + 1)]


def _explained(reading: _Reading) -> float:
    """How well objects explain a component: their scores, weighted by area; 0 for none."""
    areas = [int(detection.mask.sum()) for _, detection in reading]
    scores = [detection.score for _, detection in reading]
    return float(np.average(scores, weights=areas)) if reading else 0.0


def _objects(
    piece: NDArray[np.bool_], around: NDArray[np.bool_], smooth: NDArray[np.float64], behind: NDArray[np.bool_]
) -> _Reading:
    """The objects of a piece, by shape; none where most of it has no palette colour."""
    if not piece.any() or np.median(_named(smooth[_core(piece)])[1]) > _WRONG_COLOR:
        return []
    # the background near the thing: a tint, taken for coverage, would blur a pale thing's outline
    near = behind & ndimage.binary_dilation(around, _EIGHT, iterations=_EDGE)
    background = np.median(smooth[near], axis=0) if near.any() else np.array(BACKGROUND, dtype=np.float64)
    # soft coverage: the share of the way from background b to the colour c, <p - b, c - b> / ||c - b||^2
    direction = _interior(piece, smooth) - background
    length = np.maximum((direction**2).sum(axis=-1), 1.0)
    way = ((smooth - background) * direction).sum(axis=-1) / length
    soft = np.where(around, np.clip(way, 0.0, 1.0), 0.0)
    return [_recognised(outline, soft) for outline in _outlines(soft)]


def _interior(piece: NDArray[np.bool_], smooth: NDArray[np.float64]) -> NDArray[np.float64]:
    """The colour of a piece near each pixel: a mean in which a pixel weighs the square of its depth in the piece."""
    weights = ndimage.distance_transform_edt(piece)[..., None] ** 2
    weighted = np.concatenate([weights * smooth, weights], axis=-1)
    spread = ndimage.gaussian_filter(weighted, (_REACH, _REACH, 0), mode="constant")
    return spread[..., :3] / np.maximum(spread[..., 3:], 1e-9)


def _outlines(soft: NDArray) -> Iterator[NDArray[np.bool_]]:
    """Yield the objects of a piece: neighbours whose faint edges ran together part at half coverage."""
    labels, number = ndimage.label(soft > 0.5, _EIGHT)
    for index in range(1, number + 1):
        mask = labels == index
        if mask.sum() >= _LEAST_PIXELS:
            yield mask


def _recognised(mask: NDArray[np.bool_], soft: NDArray) -> tuple[str, Detection]:
    """The best of all templates, and its score for coverages a of the object and b of the template.

    score = sum min(a, b) / sum max(a, b) * exp(-|log(aspect / template's aspect)|). The last factor is needed since
    the grid stretches every box to a square.
    """
    # the object's own faint edge counts as its, another object's edge of the same colour does not
    near = ndimage.binary_dilation(mask, _EIGHT, iterations=_SOFT)
    neighbours = ndimage.binary_dilation((soft > 0.5) & ~mask, _EIGHT)
    alone = np.where(mask | (near & ~neighbours), soft, 0.0)
    box = _box(alone)
    seen = _on_grid(alone, box)
    shapes, templates, aspects = _templates()
    overlap = np.minimum(seen, templates).sum(axis=(1, 2)) / np.maximum(seen, templates).sum(axis=(1, 2))
    scores = overlap * np.exp(-np.abs(np.log(_aspect(box) / aspects)))
    best = int(scores.argmax())
    return shapes[best], Detection(box, mask, float(scores[best]))


def _box(soft: NDArray) -> tuple[float, float, float, float]:
    """Where the coverage falls to half, between pixels."""
    (x0, x1), (y0, y1) = (_half_width(soft.max(axis=axis)) for axis in (0, 1))
    return x0, y0, x1, y1


def _half_width(profile: NDArray) -> tuple[float, float]:
    """Where a profile first and last crosses half its maximum, by linear interpolation, in pixels."""
    half = 0.5 * profile.max()
    padded = np.pad(profile, 1)  # padded[i] stands at coordinate i - 1/2
    inside = np.flatnonzero(padded >= half)
    first = int(inside[0])
    last = int(inside[-1])
    start = first - 0.5 - (padded[first] - half) / (padded[first] - padded[first - 1])
    end = last - 0.5 + (padded[last] - half) / (padded[last] - padded[last + 1])
    return float(start), float(end)


def _aspect(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) / (box[3] - box[1])


def _on_grid(soft: NDArray, box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """The coverage inside the box, bilinearly resampled to a square grid."""
    height, width = soft.shape
    return _tents(box[1], box[3], height) @ soft @ _tents(box[0], box[2], width).T


def _tents(low: float, high: float, size: int) -> NDArray[np.float64]:
    """Bilinear weights [grid, size] of pixel centres for the grid's cell centres."""
    points = low + (np.arange(_GRID) + 0.5) * (high - low) / _GRID
    return np.clip(1 - np.abs(points[:, None] - (np.arange(size) + 0.5)), 0.0, 1.0)


@cache
def _templates() -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Every shape at every blur: names [k], grids [k, 24, 24], aspects [k]; made as an image's own grids are."""
    names = []
    grids = []
    aspects = []
    for shape in SHAPES:
        sharp = coverage(shape, 20.0, 20.0, 11.0, size=40)
        for blur in _TEMPLATE_BLURS:
            soft = ndimage.gaussian_filter(sharp, blur)
            box = _box(soft)
            names.append(shape)
            grids.append(_on_grid(soft, box))
            aspects.append(_aspect(box))
    return tuple(names), np.stack(grids), np.array(aspects)
