"""This room's tests work on the tiny pipelines."""

from pipelines import *  # noqa: F403 (fixtures)
