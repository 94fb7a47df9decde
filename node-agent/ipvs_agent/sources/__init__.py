"""Where plans come from: a directory of manifests; a Kubernetes watch will stand beside it."""
