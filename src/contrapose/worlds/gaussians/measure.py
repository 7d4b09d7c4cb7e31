"""How well samples of the Gaussians world answer their condition."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from contrapose.worlds.gaussians.modes import Labels, Modes, Points


@dataclass(frozen=True)
class ModeScores:
    """Measures of one set of samples."""

    right_mode: float
    """Share of samples whose nearest centre is their own condition's (more is better)."""
    distance: float
    """Mean distance to the own condition's centre; for clean data spread * sqrt(pi / 2), the mean of Rayleigh's law."""
    energy: float
    """Energy distance to clean data of the same condition, averaged over conditions; 0 for equal distributions."""


def energy_distance(a: Points, b: Points) -> float:
    """2 E|A - B| - E|A - A'| - E|B - B'| over all pairs of points (Szekely & Rizzo 2013, eq. 6); never negative."""
    # each point's zero distance to itself counts too: without it, small samples could fall below zero
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def score(samples: Points, labels: Labels, modes: Modes, random: torch.Generator) -> ModeScores:
    """Compare samples with their conditions' clean modes."""
    distances = torch.cdist(samples, modes.centres)
    clean = modes.clean(labels, random)
    energies = [energy_distance(samples[labels == c], clean[labels == c]) for c in range(modes.num_modes)]
    return ModeScores(
        right_mode=float((distances.argmin(1) == labels).float().mean()),
        distance=float(distances.gather(1, labels[:, None]).mean()),
        energy=sum(energies) / len(energies),
    )
