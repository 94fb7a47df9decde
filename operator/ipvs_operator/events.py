"""Events on users' objects: each once in a while, and not more in all than an API server likes."""

import logging
import os
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

from ipvs_kube.api import Api
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import DIRECTOR_GROUPS, EVENTS, SERVICES, VIRTUAL_SERVICES
from ipvs_planner.writes import Event

log = logging.getLogger(__name__)

REPEAT_SECONDS = 600.0
"""The same words on the same object come again only after this."""
REMEMBERED = 4096
BURST, PER_SECOND = 50.0, 5.0
CONTROLLER = "ipvs.dev/operator"
API_VERSIONS = {resource.kind: resource.api_version for resource in (VIRTUAL_SERVICES, DIRECTOR_GROUPS, SERVICES)}


class Limiter:
    """Which events are worth telling. Times in seconds of any steady clock."""

    def __init__(self, now: float) -> None:
        self._told: OrderedDict[Event, float] = OrderedDict()
        self._left, self._at = BURST, now

    def admits(self, event: Event, now: float) -> bool:
        """Told at most once in ``REPEAT_SECONDS``, and only while there is something left of what all may have."""
        last = self._told.get(event)
        if last is not None and now - last < REPEAT_SECONDS:
            return False
        self._left = min(BURST, self._left + (now - self._at) * PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        self._told[event] = now
        self._told.move_to_end(event)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        return True


def event_object(event: Event, at: datetime) -> dict[str, Any]:
    """As ``events.k8s.io/v1`` wants it, which bounds its texts."""
    return {
        "metadata": {"generateName": f"{event.name[:200]}-", "namespace": event.namespace or "default"},
        "eventTime": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason[:128],
        "action": "Reconcile",
        "note": event.message[:1000],
        "reportingController": CONTROLLER,
        "reportingInstance": os.uname().nodename[:128],
        "regarding": {
            "apiVersion": API_VERSIONS[event.kind],
            "kind": event.kind,
            "namespace": event.namespace,
            "name": event.name,
            "uid": event.uid,
        },
    }


def tell(api: Api, event: Event) -> None:
    """Write it; an event that cannot be written (its namespace is going, say) is not worth another try."""
    try:
        api.create(EVENTS, event.namespace or "default", event_object(event, datetime.now(UTC)), "ipvs-operator")
    except ApiError as error:
        log.debug("event %s on %s %s/%s: %s", event.reason, event.kind, event.namespace, event.name, error)
