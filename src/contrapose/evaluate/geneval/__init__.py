"""GenEval on real images: a detector of COCO's objects, colours by CLIP, and the suite of these and the verdict."""
