"""Worlds with known answers: Gaussians in the plane, and shapes that a tiny text-to-image model draws."""
