"""Photographs to align from: found in whatever people keep them in, looked at once each, and known again."""

from contrapose.curate.photos.digest import count_and_digest
from contrapose.curate.photos.duplicates import NearDuplicates
from contrapose.curate.photos.looking import Look, fingerprint, look_at_photos
from contrapose.curate.photos.photo import CAPTIONS, Photo, SkippedPhoto
from contrapose.curate.photos.sources import list_photos

__all__ = [
    "CAPTIONS",
    "Look",
    "NearDuplicates",
    "Photo",
    "SkippedPhoto",
    "count_and_digest",
    "fingerprint",
    "list_photos",
    "look_at_photos",
]
