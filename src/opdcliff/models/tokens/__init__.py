"""Tokenizers: bytes of tokens, chat templates, the codec of both, and a small BPE."""
