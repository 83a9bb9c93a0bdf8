"""Fine-tuning on answers of one's own, whole or by an adapter, and what adapters are."""
