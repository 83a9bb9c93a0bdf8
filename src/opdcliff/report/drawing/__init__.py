"""What all figures share: inputs, style, page."""
