"""A Kubernetes whose nodes are lab kernels of their own, with containerd and a kubelet: no Docker, no root."""
