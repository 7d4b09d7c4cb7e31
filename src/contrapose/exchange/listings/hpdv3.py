"""HPDv3: rows of {prompt, path1, path2, model1, model2}, of which `path1` won."""

from __future__ import annotations

from contrapose.containers.left_out import Skip
from contrapose.containers.row import ContainerRow
from contrapose.exchange.listings.listed import Format, Listed, Reading, each

PATHS = ("path1", "path2")
MODELS = ("model1", "model2")
COLUMNS = ("prompt", *PATHS)


def _pair(row: ContainerRow, reading: Reading) -> Listed:
    """`reading.only_models` keeps the pairs whose images are both of these models."""
    models = {}
    if reading.only_models:
        models = {key: row.need(key) for key in MODELS}  # both must be there, also where the first is not wanted
    for key, model in models.items():
        if model not in reading.only_models:
            raise Skip(f"{key} is {model}, which is not among --only-models", "other model")
    folder = reading.folder(row)
    winner, loser = (row.image(key, folder) for key in PATHS)
    return Listed.pair(row.name, row.caption("prompt"), winner, loser)


HPDV3 = Format(("path1",), each(_pair, COLUMNS), COLUMNS, frozenset({"image_folder", "only_models", "split"}))
