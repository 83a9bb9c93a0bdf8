"""Classes and modal sets of answers to any JSON Schema, by a grammar engine and the schema."""
