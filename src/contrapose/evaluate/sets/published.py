"""Mean and covariance of a reference as other tools publish them: `mu` and `sigma` in an .npz, and nothing else."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from contrapose.errors import UserError
from contrapose.evaluate.sets.distances import FeatureMoments

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedMoments:
    """What pytorch-fid and clean-fid keep of a reference: FID can be made of it, and no other number."""

    path: Path
    moments: FeatureMoments

    count: ClassVar[int] = 0
    """Its number of images, which the file does not say."""

    @property
    def features(self) -> NDArray[np.float32]:
        """Raises `UserError`: there are none."""
        raise self.too_little()

    def tell(self, extractor: str) -> None:
        """Say what nothing tells of it."""
        _log.info(
            f"{self.path}: does not say by which features it was made, nor of how many images; FID is right if they "
            f"were {extractor}, resizer included"
        )

    def too_little(self) -> UserError:
        """The error of whoever needs more of a reference."""
        return UserError(
            f"{self.path}: holds a mean and a covariance (mu, sigma), of which fid alone can be made; leave the other "
            "metrics out, or name the folder of its images with --reference"
        )


def published_moments(path: Path, mean: NDArray[np.generic], covariance: NDArray[np.generic]) -> PublishedMoments:
    """What such a file holds; `UserError` where it is no mean and covariance."""
    dims = mean.shape[0] if mean.ndim == 1 else 0
    finite = all(np.issubdtype(each.dtype, np.floating) and np.isfinite(each).all() for each in (mean, covariance))
    if not dims or covariance.shape != (dims, dims) or not finite:
        raise UserError(f"{path}: mu and sigma are not a mean [d] and a covariance [d, d]; get the file again")
    moments = FeatureMoments(mean.astype(np.float64), covariance.astype(np.float64))
    return PublishedMoments(path, moments)
