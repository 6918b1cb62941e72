"""Evidence on disk: trials, their results, packs of them, and the manifests that ask for them. No torch."""
