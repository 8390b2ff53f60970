"""Who changed what: one line of JSON in the log for each call that may change a collection, refused ones too.

Lines go to the logger `babelclip.audit`, so an operator can send them elsewhere. They hold the name of a key, never the
key, and how many rows were named, never which. Entry point: `audit`.
"""

from __future__ import annotations

import datetime
import json
import logging
from typing import Any

_log = logging.getLogger("babelclip.audit")


def audit(action: str, outcome: str, **facts: Any) -> None:
    """Writes a line.

    Args:
        action: what was asked for.
        outcome: asked, done, failed or refused.
        facts: name of the key, address of the client, collection, job, rows.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    _log.info(json.dumps({"time": now, "action": action, "outcome": outcome, **facts}))
