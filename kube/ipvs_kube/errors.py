"""What the API server says when it does not do what it was asked, as one exception with the distinctions that count."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: int = 0


class _Status(msgspec.Struct):
    """``metav1.Status``."""

    reason: str = ""
    message: str = ""
    code: int = 0
    details: _Details | None = None


class ApiError(Exception):
    """``status``: HTTP's, 0 where no answer came: then it is unknown whether the request was carried out.

    ``reason``: the API's own word (``AlreadyExists``). ``retry_after``: seconds to leave it alone, where it said so.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after

    def __str__(self) -> str:
        return f"{self.message} ({self.status} {self.reason})" if self.status else self.message

    @property
    def unreachable(self) -> bool:
        """No answer: the connection failed, or the answer was cut off."""
        return self.status == 0

    @property
    def not_found(self) -> bool:
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def already_exists(self) -> bool:
        return self.status == HTTPStatus.CONFLICT and self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        """Another resourceVersion or UID than the request named, or another manager's field."""
        return self.status == HTTPStatus.CONFLICT and self.reason != "AlreadyExists"

    @property
    def gone(self) -> bool:
        """The resourceVersion or continue token is too old: list anew."""
        return self.status == HTTPStatus.GONE

    @property
    def invalid(self) -> bool:
        """The object as sent will never be taken."""
        return self.status in (HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.BAD_REQUEST)

    @property
    def forbidden(self) -> bool:
        return self.status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED)


def error_of(status: int, headers: Mapping[str, str], body: bytes, what: str) -> ApiError:
    """The error of an answer that is none of success. ``what``: the request, for the message."""
    try:
        told = msgspec.json.decode(body, type=_Status)
    except ValueError:
        told = _Status(message=body[:200].decode(errors="replace").strip())
    after = headers.get("Retry-After", "")
    seconds = float(after) if after.isdecimal() else None
    if seconds is None and told.details is not None and told.details.retry_after_seconds:
        seconds = float(told.details.retry_after_seconds)
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "unknown status"
    return ApiError(status, told.reason or phrase, f"{what}: {told.message or phrase}", seconds)


def watch_error(body: bytes, what: str) -> ApiError:
    """The error that an ERROR event of a watch carries."""
    try:
        told = msgspec.json.decode(body, type=_Status)
    except ValueError:
        told = _Status(message="an ERROR event that cannot be read")
    return ApiError(told.code or 500, told.reason, f"{what}: {told.message}")
