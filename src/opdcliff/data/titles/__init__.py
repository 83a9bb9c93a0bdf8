"""Item titles as reasons: made up by a grammar, or read from lines and item rows."""
