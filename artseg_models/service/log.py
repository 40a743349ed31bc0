"""The service's log: one JSON object a line, or plain lines where somebody looks on."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, TextIO

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message


def log_to(stream: TextIO) -> None:
    """Send all that is logged in this process to a stream: plain lines to a terminal, JSON lines to anything else.

    A JSON line has `time` (ISO 8601), `level`, `message`, `pid`, after a segmentation also what `app._segment` adds,
    and after a failure `exception`.
    """
    logger.remove()
    if stream.isatty():
        logger.add(stream, format="{time:HH:mm:ss} {message}", level="INFO")
    else:
        logger.add(lambda message: _write(stream, message), level="INFO", format="{message}")
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.INFO, force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # says again what the service says


class _ToLoguru(logging.Handler):
    """Passes what libraries log on."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = getattr(record, "fields", {})
        logger.bind(**fields).opt(exception=record.exc_info).log(record.levelname, "{}", record.getMessage())


def _write(stream: TextIO, message: Message) -> None:
    record = message.record
    line: dict[str, Any] = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "message": record["message"],
        "pid": record["process"].id,
        **record["extra"],
    }
    if record["exception"] is not None:
        line["exception"] = str(message).partition("\n")[2].strip()
    stream.write(json.dumps(line, default=str) + "\n")
    stream.flush()
