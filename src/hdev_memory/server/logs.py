"""What the server says on stderr: one line for each event, as text or as JSON.

Neither form ever holds the key of an entry, a content, a metadata or an API key: a request is named
by its route, and an error by its kind and place, because its text may quote what it failed on.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import PurePath
from types import TracebackType
from typing import Any, Literal, TextIO

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is answered, for every line that is written on the way."""

LOGGERS = ("hdev_memory.server", "uvicorn", "asyncio")
"""Whose lines are the server's; all have the same form and level."""

_PLAIN = re.compile(r"[!#-<>-~]+")
"""What needs no quotes as a value in text: visible ASCII but `"` and `=`."""


class _Form(logging.Formatter):
    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a line says, in order."""
        when = datetime.fromtimestamp(record.created, UTC)
        found: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
        }
        if request_id := REQUEST_ID.get():
            found["request_id"] = request_id
        said: dict[str, Any] | None = getattr(record, "fields", None)
        found.update(said if said is not None else {"message": record.getMessage().strip()})
        if record.exc_info and record.exc_info[0] is not None:
            found.update(_failure(record.exc_info[0], record.exc_info[2]))
        return found


class JsonForm(_Form):
    """One JSON object a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), separators=(",", ":"))


class TextForm(_Form):
    """`TIME LEVEL EVENT name=value …` without the event of a message; what is not plain is quoted
    as in JSON.
    """

    def format(self, record: logging.LogRecord) -> str:
        found = self.fields(record)
        head = [found.pop("time"), found.pop("level").upper(), found.pop("event")]
        if "message" in found:
            head.pop()
        return " ".join(head + [f"{name}={_shown(value)}" for name, value in found.items()])


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _failure(kind: type[BaseException], trace: TracebackType | None) -> dict[str, Any]:
    """The kind of an error and where it came from, innermost first; not its text."""
    frames = [
        f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in reversed(traceback.extract_tb(trace))
    ]
    return {"error": kind.__name__, "frames": frames}


def configure(level: str, form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Have all of the server's lines from `level` on written in this form, to stderr."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonForm() if form == "json" else TextForm())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
