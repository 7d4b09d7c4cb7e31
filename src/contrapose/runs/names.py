"""The files of a run's folder, by name."""

LORA_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FULL_FOLDER, FINISHED = "model", "finished.json"
