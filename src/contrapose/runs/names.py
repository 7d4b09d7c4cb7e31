"""The files of a run's folder, and the notes in them, by name."""

RUN_FILE = "run.yaml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
IMAGES = "images"
BEST = "best.json"
TRACKERS = "trackers.json"
FINISHED = "finished.json"
CARD = "README.md"

LORA_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
FULL_FOLDER = "model"
MERGE_FILE = "merge.yaml"
STATE_FILE = "training.safetensors"
SHARDS = "training"

BASE_NOTE = "base_fingerprint"  # of the model that was trained, in headers and in finished.json
