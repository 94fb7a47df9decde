"""The contract of ipvs-operator as frozen types: what people declare, what nodes must do, what kernels report.

The YAML under ``crds/`` is the source of truth and is shipped in here; the types hold the same shapes and a test walks
both. ``manifests`` turns people's text into them. Nothing of ours is imported here, and the CRDs, read once when a
faulty manifest has to be explained, are the only files that are opened.
"""

GROUP = "ipvs.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
