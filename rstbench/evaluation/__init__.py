"""Images through attacks to answers: shards, judges, executors."""
