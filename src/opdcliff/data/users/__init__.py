"""Users of the Amazon files: what they reviewed, and their lists for a judge to grade."""
