"""A whole experiment from one file: prompts, pairs, methods and training seeds, images, evaluations, one report."""
