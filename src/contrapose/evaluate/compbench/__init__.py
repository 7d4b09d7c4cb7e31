"""T2I-CompBench: attributes by BLIP-VQA and actions by CLIP, through transformers."""
