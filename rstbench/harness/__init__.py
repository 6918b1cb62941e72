"""Questions and answers: trials, shards, tallies, and the evidence they leave on disk."""
