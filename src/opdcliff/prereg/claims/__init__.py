"""What the tests of a lock say: their common grounds, the contrasts and the previews."""
