"""Which commands of the documents the suite runs, and which it does not, and why.

test_documents.py runs them, one is run in tests/apiserver; a test in tests/unit holds that no block is in neither.
"""

from tests.documents import Block, block, blocks

DOCUMENTS = ("README.md", "docs/install.md", "docs/kubernetes.md", "docs/loadbalancer.md", "docs/coexistence.md")
IN_README = "On Kubernetes"
"""The README's other parts are about one host."""

# docs/install.md
HELM_INSTALL = block("docs/install.md", "Helm", 0)
HELM_TEST = block("docs/install.md", "Helm", 1)
HELM_UPGRADE = block("docs/install.md", "Helm", 2)
HELM_UNINSTALL = block("docs/install.md", "Uninstall", 0)
REMOVE_DEFINITIONS = block("docs/install.md", "Uninstall", 1)
KUSTOMIZE_APPLY = block("docs/install.md", "kustomize", 0)
KUSTOMIZE_DELETE = block("docs/install.md", "kustomize", 1)
OVERLAY = block("docs/install.md", "kustomize", 0, "yaml")
WITHOUT_MODULES = block("docs/install.md", "kustomize", 1, "yaml")
MANIFESTS_APPLY = block("docs/install.md", "Plain manifests", 0)
MANIFESTS_DELETE = block("docs/install.md", "Plain manifests", 1)
RELEASE_NODES = block("docs/install.md", "Releasing the nodes")
ARGO_CD = block("docs/install.md", "Argo CD")

# docs/kubernetes.md
DEFINITIONS_AND_RIGHTS = block("docs/kubernetes.md", "Install", 0)
WITHOUT_IMAGES = block("docs/kubernetes.md", "Install", 1)
TOKENS = block("docs/kubernetes.md", "Install", 2)
FIRST = block("docs/kubernetes.md", "The first virtual service")
UPGRADE = block("docs/kubernetes.md", "Upgrade")
UNINSTALL = block("docs/kubernetes.md", "Deletion")

# docs/loadbalancer.md
BALANCER = block("docs/loadbalancer.md", "Services of type LoadBalancer", 0, "yaml")
BALANCER_SHOWN = block("docs/loadbalancer.md", "Services of type LoadBalancer")
ANNOTATION = block("docs/loadbalancer.md", "Annotations")

SAME = {
    block("README.md", IN_README, 0): (*HELM_INSTALL.commands, *FIRST.commands[:2]),
    block("README.md", IN_README, 1): FIRST.commands[2:4],
}
"""The README's are others' over again."""
NOT_RUN = {
    block("docs/install.md", "Images"): "Docker: test_images.py builds the same Dockerfiles without it",
    **{
        block("docs/install.md", "Kernels and modules", number): "test_modules.py sees to it, on kernels with modules"
        for number in (0, 1)
    },
    block("docs/coexistence.md", "kube-proxy"): "kube-proxy in IPVS mode: test_kube_proxy.py looks for these words",
}


def every() -> set[Block]:
    """All blocks of commands that the documents have."""
    found = {one for document in DOCUMENTS for one in blocks(document) if not one.language}
    return {one for one in found if one.document != "README.md" or one.heading == IN_README}


def run() -> set[Block]:
    """Those that the suite runs."""
    return {one for one in globals().values() if isinstance(one, Block) and not one.language}
