"""Where a photograph's subject is: soft maps [H, W] in 0..1, from two formulas or from a model.

The formulas need no weights, so that spoiling works offline; a model knows objects, where they know contrast. A map
that is the same all over points at nothing, and then everything counts as the subject.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contrapose.pixels import lab

Map = NDArray[np.float64]
WIDTH = 64  # pixels at which the spectral residual sees a photograph as a person does at a glance
_BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16


def normalised(salience: Map) -> Map:
    """Min-max into 0..1, as RealAlign takes U2-Net's map; ones where it is the same all over."""
    low = float(salience.min())
    high = float(salience.max())
    if high - low <= 1e-9 * max(1.0, abs(high)):
        return np.ones_like(salience)
    return (salience - low) / (high - low)


def masked(salience: Map, threshold: float | None, softness: float) -> Map:
    """A map as a mask: m = clip(1/2 + (S - threshold) / softness, 0, 1), with Otsu's threshold where none is given.

    S is smoothed by 1 % of the shorter side before: threads and holes are no subject. Threshold 0.5 and softness 1 take
    it as it then is. If no pixel reaches the threshold, or the map is constant, everything is masked: an empty mask
    would leave the loser like its winner.
    """
    if salience.min() == salience.max():
        return np.ones_like(salience)
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(salience, 0.01 * min(salience.shape), mode="nearest")
    least = otsu(smooth) if threshold is None else threshold
    mask = (0.5 + (smooth - least) / softness).clip(0, 1)
    return mask if mask.max() >= 0.5 else np.ones_like(salience)


def otsu(salience: Map) -> float:
    """The threshold that sets two groups of values furthest apart (Otsu 1979, eq. 18, of 256 levels).

    The middle of those that do so equally well, as all do in a gap between the groups.
    """
    counts, edges = np.histogram(salience, bins=256, range=(0, 1))
    share = counts.cumsum() / counts.sum()
    centres = (edges[:-1] + edges[1:]) / 2
    mean = (counts * centres).cumsum() / counts.sum()
    # eq. 18: (mu_T omega(k) - mu(k))^2 / (omega(k) (1 - omega(k))), for every level k at once
    apart = (mean[-1] * share - mean) ** 2 / np.maximum(share * (1 - share), 1e-12)
    return float(edges[1:][apart >= apart.max() * (1 - 1e-9)].mean())


def frequency_tuned(photo: Image.Image) -> Map:
    """Distance of each pixel, slightly blurred, from the photograph's mean colour in CIE Lab.

    S(x) = || I_mean - I_blurred(x) ||, blurred by the 5x5 binomial kernel (Achanta et al. 2009, "Frequency-tuned
    salient region detection", eq. 4).
    """
    from scipy.ndimage import convolve1d

    colours = lab(np.asarray(photo))
    rows = convolve1d(colours, _BINOMIAL, axis=0, mode="nearest")
    blurred = convolve1d(rows, _BINOMIAL, axis=1, mode="nearest")
    return normalised(np.linalg.norm(colours.mean((0, 1)) - blurred, axis=-1))


def spectral_residual(photo: Image.Image) -> Map:
    """What of a photograph's spectrum is unlike its own neighbourhood.

    With L = log |F[I]| and P = arg F[I] at 64 pixels' width, R = L - (3x3 mean of L) and S = g * |F^-1[exp(R + iP)]|^2
    (Hou & Zhang 2007, "Saliency detection: a spectral residual approach", eq. 3 to 5). g is a Gaussian of 2.5 pixels as
    in the authors' code, where the paper says 8, and nothing is beyond the border.
    """
    from scipy.ndimage import gaussian_filter, uniform_filter

    grey = photo.convert("L")
    if grey.getextrema()[0] == grey.getextrema()[1]:
        return np.ones((photo.height, photo.width))
    height = max(8, round(WIDTH * photo.height / photo.width))
    pixels = np.asarray(grey.convert("F").resize((WIDTH, height), Image.Resampling.BILINEAR), dtype=np.float64) / 255
    spectrum = np.fft.fft2(pixels)
    # 1e-12: a frequency that is not there has no logarithm
    log_amplitude = np.log(np.abs(spectrum) + 1e-12)
    residual = log_amplitude - uniform_filter(log_amplitude, 3, mode="nearest")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return normalised(resized(gaussian_filter(saliency, 2.5, mode="constant"), photo.size, Image.Resampling.BILINEAR))


FORMULAS: dict[str, Callable[[Image.Image], Map]] = {
    "spectral-residual": spectral_residual,
    "frequency-tuned": frequency_tuned,
}


def resized(values: Map, size: tuple[int, int], how: Image.Resampling) -> Map:
    """Numbers [h, w] at an image's size (width, height)."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize(size, how), dtype=np.float64)
