"""DataLog and TCPLog: signals over time, into a file and onto a port of its own.

A sample of the TCP logger is a frame of big-endian numbers: number of channels (uint32), oversampling
(float32), a counter (uint64), a state (uint16, 2 while it runs), then each channel (float32).
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog

from protocols.errors import DriverError, TunnelpilotError
from protocols.files.nanonis_dat import DatFile, write_dat
from sim_hardware.nanonis import files, signals
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.nanonis.server import listen

REGISTRY = Registry()
log = structlog.get_logger()

LOG_RATE_HZ = 100.0
"""Samples per second (wall) of the data logger and, at an oversampling of 10, of the TCP logger."""
TCP_LOG_PORT = 6590
"""Where public clients expect the stream."""
MOST_ROWS = 1_000_000
RUNNING = 2
SEND_TIMEOUT_S = 5.0
_HEAD = struct.Struct(">IfQH")

REGISTRY.settings["DataLog.Chs"] = Settings("DataLog.Chs", {"channel_indexes": [0, 30]})
REGISTRY.settings["DataLog.Props"] = Settings(
    "DataLog.Props",
    {
        "acquisition_mode": 1,
        "acquisition_duration_hours": 0,
        "acquisition_duration_minutes": 1,
        "acquisition_duration_seconds": 0.0,
        "averaging": 1,
        "basename": "DataLog",
        "comment": "",
    },
)
REGISTRY.settings["TCPLog.Chs"] = Settings("TCPLog.Chs", {"channel_indexes": [0, 30]})
REGISTRY.settings["TCPLog.Oversampl"] = Settings("TCPLog.Oversampl", {"oversampling_value": 10})


# -- data logger ---------------------------------------------------------------------------------------------


@dataclass
class DataLogger:
    """What it has recorded: row after row of ``width`` values, seconds since the start and then the signals.
    Kept without an object for each number, because a log may run for hours."""

    running: bool = False
    started: float = 0.0
    stopped: float = 0.0
    path: str = ""
    values: array[float] = field(default_factory=lambda: array("d"))
    width: int = 1
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    @property
    def count(self) -> int:
        """Rows so far."""
        return len(self.values) // self.width


def _chosen(channel_indexes: Any) -> list[int]:
    chosen = [signals.check_index(int(index)) for index in channel_indexes]
    if not chosen:
        raise DriverError("at least one channel is needed.")
    return list(dict.fromkeys(chosen))


@REGISTRY.command("DataLog.Open")
def log_open(call: Call) -> None:
    """Open its window."""
    call.lab.open("DataLog")


@REGISTRY.command("DataLog.ChsSet")
def log_channels_set(call: Call, channel_indexes: Any) -> None:
    """What is recorded."""
    call.lab.store_setting("DataLog.Chs", 0, {"channel_indexes": _chosen(channel_indexes)})


@REGISTRY.command("DataLog.ChsGet")
def log_channels_get(call: Call) -> dict[str, Any]:
    """What is recorded."""
    kept = call.lab.setting("DataLog.Chs")
    return {"channel_indexes": np.array(kept["channel_indexes"], np.int32)}


@REGISTRY.command("DataLog.PropsSet")
def log_props_set(call: Call, modules: tuple[str, ...] = (), **wanted: Any) -> None:
    """Mode (1 continuous, 2 timed; 0 no change), duration, averaging, and names; -1 and empty leave them."""
    kept = call.lab.setting("DataLog.Props")
    for name, value in wanted.items():
        unchanged = value in (0, -1) if name in ("acquisition_mode", "averaging") else value in (-1, "")
        if not unchanged:
            kept[name] = value
    if kept["acquisition_mode"] not in (1, 2):
        raise DriverError(f"acquisition mode {kept['acquisition_mode']} is neither 1 nor 2.")
    call.lab.store_setting("DataLog.Props", 0, kept)


@REGISTRY.command("DataLog.PropsGet")
def log_props_get(call: Call) -> dict[str, Any]:
    """The same; the mode counts from 0."""
    kept = call.lab.setting("DataLog.Props")
    return {**kept, "acquisition_mode": kept["acquisition_mode"] - 1}


@REGISTRY.command("DataLog.Start")
def log_start(call: Call) -> None:
    """Begin to record."""
    lab = call.lab
    logger = lab.of(DataLogger)
    log_stop(call)
    if logger.thread is None:
        lab.at_close(lambda: logger.stop.set())
    with lab.lock:
        indexes = list(lab.setting("DataLog.Chs")["channel_indexes"])
        logger.values, logger.width = array("d"), 1 + len(indexes)
        logger.started, logger.stopped, logger.path = time.time(), 0.0, ""
        logger.running, logger.stop = True, threading.Event()
        logger.thread = threading.Thread(
            target=_record, args=(lab, logger, indexes), name="data log", daemon=True
        )
    logger.thread.start()


@REGISTRY.command("DataLog.Stop")
def log_stop(call: Call) -> None:
    """End the recording and save it."""
    logger = call.lab.of(DataLogger)
    logger.stop.set()
    if logger.thread is not None:
        logger.thread.join(2.0)


@REGISTRY.command("DataLog.StatusGet")
def log_status(call: Call) -> dict[str, Any]:
    """Since when, how long, where it was saved, and how many points there are."""
    logger = call.lab.of(DataLogger)
    until = time.time() if logger.running else logger.stopped
    elapsed = max(0.0, until - logger.started) if logger.started else 0.0
    return {
        "start_time": _told(logger.started),
        "acquisition_elapsed_hours": int(elapsed // 3600),
        "acquisition_elapsed_minutes": int(elapsed % 3600 // 60),
        "acquisition_elapsed_seconds": elapsed % 60.0,
        "stop_time": _told(logger.stopped),
        "file_path": logger.path,
        "points_counter": logger.count,
    }


def _told(moment: float) -> str:
    return time.strftime("%d.%m.%Y %H:%M:%S", time.localtime(moment)) if moment else ""


def _record(lab: Instrument, logger: DataLogger, indexes: list[int]) -> None:
    """Read the signals until it is stopped or the time is over; in a thread of its own."""
    kept, stop = lab.setting("DataLog.Props"), logger.stop
    longest = float("inf")
    if kept["acquisition_mode"] == 2:
        longest = (
            3600.0 * kept["acquisition_duration_hours"]
            + 60.0 * kept["acquisition_duration_minutes"]
            + kept["acquisition_duration_seconds"]
        )
    period = max(1, kept["averaging"]) / LOG_RATE_HZ
    try:
        while logger.count < MOST_ROWS:
            row = [time.time() - logger.started, *signals.values(lab, indexes)]
            with lab.lock:
                logger.values.extend(row)
            if row[0] >= longest or stop.wait(period):
                break
        logger.stopped = time.time()
        logger.path = _save_log(lab, logger, indexes)
    except (TunnelpilotError, OSError) as failed:
        log.warning("data log ended", text=str(failed))
    finally:
        logger.stopped = logger.stopped or time.time()
        logger.running = False


def _save_log(lab: Instrument, logger: DataLogger, indexes: list[int]) -> str:
    kept = lab.setting("DataLog.Props")
    table = np.array(logger.values).reshape(-1, logger.width).T
    names = ["Time (s)", *(signals.NAMES[index] for index in indexes)]
    path = files.next_path(lab, kept["basename"], ".dat")
    state = lab.world.state()
    write_dat(
        path,
        DatFile(
            columns=dict(zip(names, table, strict=True)),
            experiment="Data Log",
            saved=files.now(),
            comments=(kept["comment"],) if kept["comment"] else (),
            settings=files.module_settings(lab, state),
        ),
    )
    return str(path)


# -- TCP logger ----------------------------------------------------------------------------------------------


@dataclass
class TcpLogger:
    """Its listening socket, and whether it streams."""

    port: int = 0
    listener: socket.socket | None = None
    running: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    counter: int = 0


def open_tcp_logger(lab: Instrument, port: int) -> int:
    """Listen for the client of the stream; the port (a real one where 0 was asked for).

    Raises:
        ConfigError: the port cannot be had.
    """
    logger = lab.of(TcpLogger)
    logger.listener = listen(port)
    logger.port = int(logger.listener.getsockname()[1])
    thread = threading.Thread(target=_serve, args=(lab, logger), name="tcp log", daemon=True)

    def close() -> None:
        logger.closed.set()
        if thread.is_alive():
            thread.join(SEND_TIMEOUT_S + 1.0)
        if logger.listener is not None:
            logger.listener.close()

    lab.at_close(close)
    thread.start()
    return logger.port


@REGISTRY.command("TCPLog.Start")
def stream_start(call: Call) -> None:
    """Begin to stream to whoever is connected."""
    logger = call.lab.of(TcpLogger)
    if logger.listener is None:
        raise DriverError("the TCP logger has no port.")
    logger.counter = 0
    logger.running.set()


@REGISTRY.command("TCPLog.Stop")
def stream_stop(call: Call) -> None:
    """Stop streaming."""
    call.lab.of(TcpLogger).running.clear()


@REGISTRY.command("TCPLog.ChsSet")
def stream_channels(call: Call, channel_indexes: Any) -> None:
    """What is streamed."""
    call.lab.store_setting("TCPLog.Chs", 0, {"channel_indexes": _chosen(channel_indexes)})


@REGISTRY.command("TCPLog.OversamplSet")
def stream_oversampling(call: Call, oversampling_value: int) -> None:
    """How many samples are averaged to one: the rate falls as it grows."""
    if not 0 <= oversampling_value <= 1000:
        raise DriverError(f"an oversampling of {oversampling_value} is outside 0 to 1000.")
    call.lab.store_setting("TCPLog.Oversampl", 0, {"oversampling_value": oversampling_value})


@REGISTRY.command("TCPLog.StatusGet")
def stream_status(call: Call) -> int:
    """0 disconnected, 1 idle, 2 running."""
    logger = call.lab.of(TcpLogger)
    if logger.listener is None:
        return 0
    return RUNNING if logger.running.is_set() else 1


def _serve(lab: Instrument, logger: TcpLogger) -> None:
    """One client after the other; a slow one is dropped, it never holds anything up."""
    assert logger.listener is not None
    while not logger.closed.is_set():
        readable, _, _ = select.select([logger.listener], [], [], 0.2)
        if not readable:
            continue
        with contextlib.suppress(OSError):
            client, _ = logger.listener.accept()
            with client:
                client.settimeout(SEND_TIMEOUT_S)
                _stream(lab, logger, client)


def _stream(lab: Instrument, logger: TcpLogger, client: socket.socket) -> None:
    while not logger.closed.is_set():
        oversampling = lab.setting("TCPLog.Oversampl")["oversampling_value"]
        period = max(1, oversampling) / (10.0 * LOG_RATE_HZ)
        if logger.closed.wait(period):
            return
        if _left(client):
            return
        if not logger.running.is_set():
            continue
        found = signals.values(lab, lab.setting("TCPLog.Chs")["channel_indexes"])
        head = _HEAD.pack(len(found), float(oversampling), logger.counter, RUNNING)
        client.sendall(head + np.array(found, ">f4").tobytes())
        logger.counter += 1


def _left(client: socket.socket) -> bool:
    """Whether the client has closed its side; what it sends is not looked at."""
    readable, _, _ = select.select([client], [], [], 0)
    return bool(readable) and not client.recv(4096)
