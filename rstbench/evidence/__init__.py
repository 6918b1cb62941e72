"""Evidence on disk: trials, their answers, and the manifests that ask for them. No torch."""
