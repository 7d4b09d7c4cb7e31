"""Photographs to align from: found in the containers that people keep them in, looked at once each, and known again."""

from contrapose.photographs.photos.digest import count_and_digest
from contrapose.photographs.photos.duplicates import NearDuplicates
from contrapose.photographs.photos.looking import Look, fingerprint, look_at_photos
from contrapose.photographs.photos.photo import CAPTIONS, Photo
from contrapose.photographs.photos.sources import list_photos

__all__ = [
    "CAPTIONS",
    "Look",
    "NearDuplicates",
    "Photo",
    "count_and_digest",
    "fingerprint",
    "list_photos",
    "look_at_photos",
]
