"""T2I-CompBench: its rules over BLIP-VQA, CLIP and an OWLv2, through transformers."""
