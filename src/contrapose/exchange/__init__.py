"""Other people's pairs, in and out."""
