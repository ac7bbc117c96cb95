"""Fine-tuning and evaluation of vision-language captioners (LoRA)."""
