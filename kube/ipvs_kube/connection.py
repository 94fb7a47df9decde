"""Where the API server is and who we are there: configuration, credentials and TLS of the ``kubernetes`` package."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import urllib3
import yaml
from kubernetes import config
from kubernetes.client import ApiClient, Configuration

from ipvs_kube.errors import ApiError

log = logging.getLogger(__name__)

CONNECTIONS = 40
"""Kept open at most: as many threads may ask at the same time without connecting anew."""

RENEW_SECONDS = 10.0
"""Credentials that the API server refuses are read again at most this often; a plugin may ask a person for them."""


class KubeConfigError(Exception):
    """There is no usable configuration; the text says where it was looked for."""


def load(kubeconfig: Path | None, context: str) -> Configuration:
    """Of a kubeconfig file, or of the cluster that this runs in, or of the user's own kubeconfig. KubeConfigError."""
    made = Configuration()
    try:
        if kubeconfig is None and not context:
            try:
                config.load_incluster_config(client_configuration=made)
            except config.ConfigException:
                config.load_kube_config(client_configuration=made)
        else:
            file = str(kubeconfig) if kubeconfig is not None else None
            config.load_kube_config(file, context or None, client_configuration=made)
    # A file that is no kubeconfig fails in whatever way its contents happen to.
    except (config.ConfigException, OSError, yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        where = f"kubeconfig {kubeconfig}" if kubeconfig is not None else "service account or kubeconfig"
        raise KubeConfigError(f"no API server is configured: {where}: {error}") from error
    made.connection_pool_maxsize = CONNECTIONS
    return made


class _Identity(NamedTuple):
    """What requests are made with; all of it is renewed together."""

    configuration: Configuration
    pool: urllib3.PoolManager

    @property
    def named(self) -> bool:
        """Whether there are credentials; a plugin that fails leaves none, and no error."""
        return bool(self.configuration.api_key or self.configuration.cert_file)


class Connection:
    """One API server, as one user, from any thread. ``load`` is asked again when the server refuses who we are: token
    files, certificates and kubeconfigs are replaced by others while this runs."""

    def __init__(self, load: Callable[[], Configuration]) -> None:
        """KubeConfigError from ``load``."""
        self._load = load
        self._lock = threading.Lock()
        self._renewed = float("-inf")
        self._identity = _identity(load())

    @property
    def configuration(self) -> Configuration:
        return self._identity.configuration

    @property
    def server(self) -> str:
        return str(self.configuration.host)

    def authorization(self) -> str:
        """The header of that name, renewed where it has run out; empty for a certificate. ApiError."""
        return self._authorization(self.configuration)

    def close(self) -> None:
        self._identity.pool.clear()

    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: tuple[float, float],
        *,
        stream: bool,
    ) -> urllib3.BaseHTTPResponse:
        """The answer, whatever it says. ``timeout``: seconds to connect and between two bytes.

        ApiError without credentials; urllib3's HTTPError or OSError where no answer came.
        """
        used = self._identity
        response = self._send(used, method, path, headers, body, timeout, stream=stream)
        if response.status != HTTPStatus.UNAUTHORIZED or not self._renew(used):
            return response
        response.close()  # refused, so certainly not carried out
        return self._send(self._identity, method, path, headers, body, timeout, stream=stream)

    def _send(
        self,
        identity: _Identity,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: tuple[float, float],
        *,
        stream: bool,
    ) -> urllib3.BaseHTTPResponse:
        authorization = self._authorization(identity.configuration)
        return identity.pool.request(
            method,
            f"{identity.configuration.host}{path}",
            headers={**headers, "Authorization": authorization} if authorization else dict(headers),
            body=body,
            timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
            retries=False,
            redirect=False,
            preload_content=not stream,
        )

    def _authorization(self, configuration: Configuration) -> str:
        try:
            with self._lock:  # a plugin is run by one thread, not by all that need its token
                key = configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        except (config.ConfigException, OSError, ValueError) as error:
            raise ApiError(0, "NoCredentials", f"credentials for {configuration.host}: {error}") from error
        return (key or "").strip()  # a newline at the end of a token's file is no part of it

    def _renew(self, refused: _Identity) -> bool:
        """Read credentials again. Whether there may be better ones now."""
        with self._lock:
            if self._identity is not refused:
                return True  # another thread was here
            now = time.monotonic()
            if now - self._renewed < RENEW_SECONDS:
                return False
            self._renewed = now
            try:
                renewed = _identity(self._load())
            except KubeConfigError as error:
                log.warning("credentials for %s are refused, and there are no others: %s", self.server, error)
                return False
            if renewed.named or not refused.named:
                self._identity = renewed
                refused.pool.clear()  # idle connections; those in use are closed when they come back
            return self._identity is renewed


def _identity(configuration: Configuration) -> _Identity:
    return _Identity(configuration, ApiClient(configuration).rest_client.pool_manager)
