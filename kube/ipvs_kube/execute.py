"""A command in a container, as ``kubectl exec`` runs it."""

from typing import NamedTuple

from ipvs_kube.api import ANSWER_SECONDS, Api
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import PODS


class Executed(NamedTuple):
    """What a command wrote, and its exit status."""

    output: str
    errors: str
    status: int


def execute(api: Api, namespace: str, pod: str, container: str, command: list[str]) -> Executed:
    """Run a command to its end. ApiError where it cannot be run, or says nothing for half a minute."""
    from kubernetes.client.exceptions import ApiException  # a second's work for the few who need it
    from kubernetes.stream.ws_client import ERROR_CHANNEL, STDERR_CHANNEL, STDOUT_CHANNEL, websocket_call

    what = f"exec {namespace}/{pod}"
    configuration, authorization = api.credentials()
    query = [*(("command", word) for word in command), ("container", container), ("stdout", "true"), ("stderr", "true")]
    try:
        client = websocket_call(
            configuration,
            "GET",
            f"{api.server}{PODS.path(namespace, pod, 'exec')}",
            query_params=query,
            headers={"authorization": authorization},
            _preload_content=False,
        )
    except ApiException as error:
        raise ApiError(0, "Unreachable", f"{what}: {error.reason}") from error
    try:
        client.run_forever(timeout=ANSWER_SECONDS)
        if client.is_open():
            raise ApiError(0, "Unreachable", f"{what}: it does not end")
        output, errors = client.read_channel(STDOUT_CHANNEL), client.read_channel(STDERR_CHANNEL)
        if not client.peek_channel(ERROR_CHANNEL):
            raise ApiError(0, "Unreachable", f"{what}: the connection broke off")
        return Executed(output, errors, int(client.returncode))
    except ValueError as error:  # a container that does not start: there is no status then, but words
        raise ApiError(0, "Unreachable", f"{what}: {error}") from error
    finally:
        client.close()
