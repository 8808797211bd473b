"""A client's link to one server, as a table: greeting before anything else, and again whenever in doubt.

States: ``unconnected`` (no socket), ``greeting`` (HELLO under way), ``ready``, ``lost`` (an answer did not
come in time, or the server was started anew: the next request greets first), ``refused`` (the server said no
to the HELLO), ``broken`` (our own receiving side failed: only a reconnect helps), ``closed``.

Events: ``need`` (somebody wants to send), ``welcome``, ``refusal`` (of the HELLO), ``silence``, ``forgotten``
(the server asks for a HELLO), ``failure`` (of our receiving side), ``reconnect``, ``close``.

Instructions: ``open`` and ``close`` a socket, ``greet`` (send HELLO), ``fail`` every waiting request.
"""

from __future__ import annotations

from protocols.states.table import Row, Table

_CLOSE = Row("closed", ("fail", "close"))
_ANEW = Row("unconnected", ("fail", "close"))
_BREAK = Row("broken", ("fail", "close"))

SESSION = Table(
    name="session",
    initial="unconnected",
    rows={
        "unconnected": {
            "need": Row("greeting", ("open", "greet")),
            "reconnect": Row("unconnected"),
            "close": Row("closed"),
        },
        "greeting": {
            "welcome": Row("ready"),
            "refusal": Row("refused"),
            "silence": Row("lost"),
            "forgotten": Row("greeting"),
            "failure": _BREAK,
            "reconnect": _ANEW,
            "close": _CLOSE,
        },
        "ready": {
            "need": Row("ready"),
            "silence": Row("lost"),
            "forgotten": Row("lost"),
            "failure": _BREAK,
            "reconnect": _ANEW,
            "close": _CLOSE,
        },
        "lost": {
            "need": Row("greeting", ("greet",)),
            "silence": Row("lost"),
            "forgotten": Row("lost"),
            "failure": _BREAK,
            "reconnect": _ANEW,
            "close": _CLOSE,
        },
        "refused": {
            "need": Row("greeting", ("greet",)),
            "silence": Row("refused"),
            "forgotten": Row("refused"),
            "failure": _BREAK,
            "reconnect": _ANEW,
            "close": _CLOSE,
        },
        "broken": {
            "reconnect": Row("unconnected"),
            "close": Row("closed"),
        },
        "closed": {
            "close": Row("closed"),
        },
    },
)
