"""The seam to the API server, for operator, agent and command-line tools: raw bodies in and out, one thread a watch.

The ``kubernetes`` package brings configuration, credentials and TLS; its typed models and its informer stay outside:
10,000 EndpointSlices cost 500 MiB as models and 22 MiB as what we read of them.
"""
