"""Images from any diffusers pipeline; an image depends on its prompt and seed alone."""
