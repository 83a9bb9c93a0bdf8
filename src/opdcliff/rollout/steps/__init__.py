"""One decoding step over a cache of fixed size, and the ways of running it fast."""
