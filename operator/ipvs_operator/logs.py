"""What the operator says of itself, on standard error."""

import logging
import sys
import time

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")


class _KopfIsPatient(logging.Filter):
    """kopf tells each failed attempt as an error, and the end of each of its tasks with a traceback; what does not pass
    ends it, and we tell why."""

    def filter(self, record: logging.LogRecord) -> bool:
        words = record.getMessage()
        return not (
            words.startswith("Request attempt #") or (record.name.startswith("kopf") and " has failed: " in words)
        )


def set_up(level: str, format_: str) -> None:
    """``level`` of ``LEVELS``, ``format_`` of ``FORMATS``. Others' libraries say less than we do."""
    handler = logging.StreamHandler(sys.stderr)
    if format_ == "json":
        from pythonjsonlogger.json import JsonFormatter

        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{threadName}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "threadName": "thread"},
                datefmt="%Y-%m-%dT%H:%M:%SZ",
            )
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%SZ"))
    if handler.formatter is not None:
        handler.formatter.converter = time.gmtime
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        handler.addFilter(_KopfIsPatient())
        for name in ("kopf", "asyncio", "urllib3", "aiohttp"):
            logging.getLogger(name).setLevel(logging.WARNING)
