"""Electronics that speak the Nanonis protocol on real ports and do what a test tells them.

``ScriptedNanonis`` keeps a table of settings (every XSet is read by its XGet) and a little microscope.
Faults are planned per command: ``plan("Bias.Set", "reset")``.  Nothing takes time unless a test holds it.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from protocols.errors import MalformedMessageError, UsageError
from protocols.nanonis import framing, replies
from protocols.nanonis.codings import to_codes, to_meanings
from protocols.nanonis.commands import RELEASE, Command, table
from protocols.nanonis.conventions import grab_from_frame

PATIENCE_S = 10.0
NO_LINGER = struct.pack("ii", 1, 0)
PRODUCT = "Nanonis SPM Control System"
FAST = "Tunnelpilot simulated microscope; time scale 1000; stepped 0"
"""Electronics whose seconds pass in a millisecond."""

SIGNALS = {0: "Current (A)", 24: "Bias (V)", 28: "X (m)", 29: "Y (m)", 30: "Z (m)"} | {
    86: "LI Demod 1 X (A)",
    87: "LI Demod 1 Y (A)",
}
SLOTS = {0: "Current (A)", 1: "LI Demod 1 X (A)", 2: "LI Demod 1 Y (A)", 8: "Bias (V)", 14: "Z (m)"}


class ScriptedNanonis:
    """A server on ``ports`` (four free ones); attributes are the microscope."""

    def __init__(self, release: int = RELEASE, product: str = FAST) -> None:
        self.release, self.product = release, product
        self.table = table(release)
        self.signals = SIGNALS if release >= 11798 else SLOTS
        self.lock = threading.RLock()
        self.changed = threading.Condition()
        self.calls: list[tuple[int, str, dict[str, Any]]] = []
        """(place of the port, command, arguments as they are meant)."""
        self.settings: dict[str, dict[str, Any]] = {}
        self.faults: dict[str, deque[Any]] = defaultdict(deque)
        self.coerce: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
        """By stem: what becomes of values that are set."""
        self.held = threading.Event()
        """Commands with the fault "hold" wait for it."""
        self.open: set[str] = set()
        self.refused: set[str] = set()
        """Modules that these electronics do not have."""
        self.bias_v, self.setpoint_a, self.feedback = 0.1, 1e-10, False
        self.x_m = self.y_m = 0.0
        self.z_limits = (-250e-9, 250e-9)
        self.z_m = 250e-9
        self.current_a: float | None = None
        self.scanning = False
        self.lines = 0
        self.lines_per_look = 3
        self.frame: np.ndarray[Any, Any] | None = None
        self.old_frame: np.ndarray[Any, Any] | None = None
        self.sweeping = False
        self.stopped = threading.Event()
        self.hold_sweeps = False
        self.sweep_samples: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = lambda bias: bias * 1e-9
        self.averages_only = False
        self._defaults()
        self._stopping = threading.Event()
        self._ports = [_listen() for _ in range(4)]
        self.ports = tuple(int(port.getsockname()[1]) for port in self._ports)
        self._threads = [
            threading.Thread(target=self._serve, args=(place, port), daemon=True)
            for place, port in enumerate(self._ports)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> str:
        """As a driver takes it."""
        return "127.0.0.1:" + ",".join(map(str, self.ports))

    def close(self) -> None:
        """End it; no thread is left."""
        self._stopping.set()
        self.held.set()
        self.stopped.set()
        for port in self._ports:
            with contextlib.suppress(OSError):
                port.shutdown(socket.SHUT_RDWR)
            port.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    # -- for tests -------------------------------------------------------------------------------------------

    def plan(self, command: str, *faults: Any) -> None:
        """The next answers to a command: "reset", "reset after" (it is carried out first), "hold", "half",
        "wrong name", "block" and "zeros" and "stray" (layouts of an error), "silent" (no answer), "twice", or
        None for a good one."""
        self.faults[command].extend(faults)

    def names(self, *prefixes: str) -> list[str]:
        """Commands that came, those that only read left out."""
        with self.lock:
            return [
                name
                for _, name, _ in self.calls
                if not name.endswith("Get") and (not prefixes or name.startswith(prefixes))
            ]

    def said(self, command: str) -> list[dict[str, Any]]:
        """Arguments of each call of a command."""
        with self.lock:
            return [arguments for _, name, arguments in self.calls if name == command]

    def places(self, command: str) -> set[int]:
        """Places of the ports on which a command came."""
        with self.lock:
            return {place for place, name, _ in self.calls if name == command}

    def await_call(self, command: str, count: int = 1) -> None:
        """Wait until a command has come so often."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.said(command)) >= count, PATIENCE_S):
                raise AssertionError(f"no {command} within {PATIENCE_S} s")

    # -- the microscope --------------------------------------------------------------------------------------

    def _defaults(self) -> None:
        self.settings.update(
            {
                "BiasSpectr.MLSMode": {"sweep_mode": "MLS"},
                "BiasSpectr.Props": {
                    "save_all": False,
                    "number_of_sweeps": 1,
                    "backward_sweep": False,
                    "number_of_points": 256,
                    "z_offset_m": 0.0,
                    "autosave": True,
                    "show_save_dialog": True,
                },
                "BiasSpectr.Timing": dict.fromkeys(self.table["BiasSpectr.TimingSet"].arguments.names, 0.125),
                "Scan.Speed": {"keep_constant": "linear speed"},
                "Scan.Props": {
                    "continuous_scan": True,
                    "bouncy_scan": True,
                    "autosave": "all",
                    "series_name": "mine",
                    "comment": "theirs",
                    "autopaste": "off",
                },
                "SafeTip.Props": {"auto_recovery": True, "auto_pause_scan": True, "threshold": 2e-8},
                "LockIn.DemodLPFilter 1": {"lp_filter_order": 4, "lp_filter_cutoff_frequency_hz": 50.0},
            }
        )

    def carry_out(self, command: Command, arguments: dict[str, Any]) -> dict[str, Any]:
        """What a command does and answers; meanings, not codes."""
        special = getattr(self, "_" + command.name.replace(".", "_").lower(), None)
        if special is not None:
            found = special(**arguments)
            return found if isinstance(found, dict) else {}
        stem = command.name.removesuffix("Set").removesuffix("Get")
        device = {k: v for k, v in arguments.items() if k in ("modulator_number", "demodulator_number")}
        key = " ".join([stem, *map(str, device.values())])
        kept = self.settings.setdefault(key, {})
        if command.name.endswith("Set"):
            given = {k: v for k, v in arguments.items() if k not in device and not _no_change(v)}
            kept.update(self.coerce.get(stem, dict)(given))
            return {}
        return dict(kept)

    def _piezo_rangeget(self) -> dict[str, Any]:
        return {"range_x_m": 1e-6, "range_y_m": 1e-6, "range_z_m": 5e-7}

    def _zctrl_limitsget(self) -> dict[str, Any]:
        return {"z_high_limit_m": self.z_limits[1], "z_low_limit_m": self.z_limits[0]}

    def _signals_namesget(self) -> dict[str, Any]:
        return {"names": tuple(SIGNALS.get(k, f"Input {k} (V)") for k in range(128))}

    def _signals_inslotsget(self) -> dict[str, Any]:
        return {"names": tuple(SLOTS.get(k, "") for k in range(24)), "indexes": list(range(24))}

    def _signals_rangeget(self, signal_index: int) -> dict[str, Any]:
        limit = 1e-8 if signal_index == 0 else 10.0
        return {"maximum_limit": limit, "minimum_limit": -limit}

    def _signals_valsget(self, indexes: Any, wait_for_newest_data: int) -> dict[str, Any]:
        values = {"Current (A)": self._current(), "X (m)": self.x_m, "Y (m)": self.y_m, "Z (m)": self.z_m}
        return {"values": np.array([values.get(self.signals[int(k)], 0.0) for k in indexes])}

    def _current(self) -> float:
        if self.current_a is not None:
            return self.current_a
        return math.copysign(self.setpoint_a, self.bias_v) if self.feedback else 0.0

    def _current_get(self) -> dict[str, Any]:
        return {"current_a": self._current()}

    def _current_gainsget(self) -> dict[str, Any]:
        return {"gains": ("LN 10^8", "LN 10^9"), "gain_index": 1, "filters": ("Off",), "filter_index": 0}

    def _util_versionget(self) -> dict[str, Any]:
        return {"product_line": self.product, "version": "Generic 5", "host_release": self.release}

    def _bias_set(self, bias_v: float) -> None:
        self.bias_v = float(self.coerce.get("Bias", dict)({"bias_v": bias_v})["bias_v"])

    def _bias_get(self) -> dict[str, Any]:
        return {"bias_v": self.bias_v}

    def _zctrl_setpntset(self, setpoint: float) -> None:
        self.setpoint_a = self.coerce.get("ZCtrl.Setpnt", dict)({"setpoint": setpoint})["setpoint"]

    def _zctrl_setpntget(self) -> dict[str, Any]:
        return {"setpoint": self.setpoint_a}

    def _zctrl_onoffset(self, status: bool) -> None:
        self.feedback = status
        if status:
            self.z_m = 0.0

    def _zctrl_onoffget(self) -> dict[str, Any]:
        return {"status": self.feedback}

    def _zctrl_statusget(self) -> dict[str, Any]:
        return {"status": self.settings.get("status", {}).get("now") or ("on" if self.feedback else "off")}

    def _zctrl_zposget(self) -> dict[str, Any]:
        return {"z_position_m": self.z_m}

    def _zctrl_withdraw(self, wait: bool, timeout_ms: int) -> None:
        self.feedback, self.z_m = False, self.z_limits[1]
        self.scanning = False
        self.stopped.set()

    def _folme_xyposset(self, x_m: float, y_m: float, wait: bool) -> None:
        self.x_m, self.y_m = x_m, y_m

    def _folme_xyposget(self, wait_for_newest_data: bool) -> dict[str, Any]:
        return {"x_m": self.x_m, "y_m": self.y_m}

    def _biasspectr_open(self) -> None:
        self.open.add("BiasSpectr")

    def _biasspectr_statusget(self) -> dict[str, Any]:
        return {"status": self.sweeping}

    def _biasspectr_stop(self) -> None:
        self.stopped.set()
        self.held.set()

    def _biasspectr_start(self, get_data: bool, basename: str) -> dict[str, Any]:
        props, limits = self.settings["BiasSpectr.Props"], self.settings["BiasSpectr.Limits"]
        self.sweeping = True
        self.stopped.clear()
        if self.hold_sweeps and not self.stopped.wait(PATIENCE_S):
            raise AssertionError("nobody ended a held sweep")
        self.sweeping = False
        points, sweeps = props["number_of_points"], props["number_of_sweeps"]
        bias = np.linspace(limits["start_value_v"], limits["end_value_v"], points)
        taken = points // 2 if self.hold_sweeps else points
        names, rows = ["Bias calc (V)"], [bias]
        for place in self.settings["BiasSpectr.Chs"]["channel_indexes"]:
            quantity, _, unit = self.signals[int(place)].partition(" (")
            for way in ["", " [bwd]"] if props["backward_sweep"] else [""]:
                tags = [f" [{k:05d}]" for k in range(1, sweeps + 1)] if sweeps > 1 else [""]
                for tag in [" [AVG]"] if sweeps > 1 and self.averages_only else tags:
                    row = self.sweep_samples(bias).astype(float) * (1.0 + 0.1 * len(names))
                    row[taken:] = np.nan
                    names.append(f"{quantity}{tag}{way} ({unit}")
                    rows.append(row)
        return {"channels": tuple(names), "data": np.array(rows), "parameters": np.zeros(2)}

    def _scan_action(self, action: str, direction: str) -> None:
        if action == "start":
            self.scanning, self.lines = True, 0
        elif action == "stop":
            self.scanning = False

    def _scan_statusget(self) -> dict[str, Any]:
        if self.scanning:
            buffer = self.settings.get("Scan.Buffer", {"lines": 0})
            self.lines += self.lines_per_look
            self.scanning = self.lines <= buffer["lines"]
        return {"status": self.scanning}

    def _scan_framedatagrab(self, channel_index: int, direction: str) -> dict[str, Any]:
        buffer = self.settings["Scan.Buffer"]
        shape = (buffer["lines"], buffer["pixels"])
        whole = np.arange(shape[0] * shape[1], dtype=float).reshape(shape) + channel_index
        if direction == "backward":
            whole = -whole - 1.0
        found = np.full(shape, np.nan) if self.old_frame is None else self.old_frame.copy()
        done = min(self.lines, shape[0])
        upward = self.scan_upward
        rows = slice(0, done) if upward else slice(shape[0] - done, None)
        found[rows] = whole[rows]
        return {
            "channel_name": self.signals[channel_index],
            "data": grab_from_frame(found),
            "direction": "up",
        }

    @property
    def scan_upward(self) -> bool:
        """Direction of the last scan that was started."""
        started = [a for a in self.said("Scan.Action") if a["action"] == "start"]
        return not started or started[-1]["direction"] == "up"

    # -- serving ---------------------------------------------------------------------------------------------

    def _serve(self, place: int, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self._serve_client(place, connection)
                except (OSError, MalformedMessageError):
                    continue

    def _serve_client(self, place: int, connection: socket.socket) -> None:
        reader = framing.RequestReader()
        while not self._stopping.is_set():
            if not select.select([connection], [], [], 0.05)[0]:
                continue
            data = connection.recv(65536)
            if not data:
                return
            reader.feed(data)
            while (request := reader.next_message()) is not None:
                if not self._answer(place, connection, request):
                    return

    def _answer(self, place: int, connection: socket.socket, request: framing.Request) -> bool:
        """Answer, or do what a fault says; False when the connection is to end."""
        command = self.table.find(request.name)
        if command is None:
            body = replies.refusal(request.name, replies.UNKNOWN_COMMAND)
            connection.sendall(framing.encode_response(request.name, body))
            return True
        arguments = to_meanings(command.name, command.decode_arguments(request.body), self.release)
        with self.changed:
            self.calls.append((place, command.name, arguments))
            self.changed.notify_all()
        planned = self.faults[command.name]
        fault = planned.popleft() if planned else None
        if fault == "reset":
            return _reset(connection)
        if fault == "hold" and not self.held.wait(PATIENCE_S):
            raise AssertionError(f"nobody let {command.name} go on")
        body = self._body(command, arguments, fault)
        if fault == "reset after":
            return _reset(connection)
        name = "Something.Else" if fault == "wrong name" else request.name
        response = framing.encode_response(name, body)
        if fault == "silent":
            return True
        if fault == "twice":
            response += response
        connection.sendall(response[: len(response) // 2] if fault == "half" else response)
        return fault != "half"

    def _body(self, command: Command, arguments: dict[str, Any], fault: Any) -> bytes:
        if fault == "block":
            return replies.refusal(command.name, "Unflatten From String")
        if fault == "zeros":
            return replies.failure(command, "Module not available")
        if fault == "stray":
            return bytes(8) + replies.refusal(command.name, "Module not available")
        module = command.module
        if module in self.refused:
            return replies.failure(command, replies.MODULE_NOT_AVAILABLE)
        if module == "BiasSpectr" and module not in self.open and not command.name.endswith("Open"):
            return replies.failure(command, replies.module_closed("Bias Spectroscopy"))
        found = self.carry_out(command, arguments)
        names = command.result.names
        given = {name: found[name] for name in names if name in found}
        coded = to_codes(command.name, given, self.release, result=True)
        blank = command.decode_result(command.result.zeros())
        try:
            return replies.success(command.result.encode({**blank, **coded}, command.name))
        except UsageError as unfit:
            raise AssertionError(f"{command.name}: {unfit}") from unfit


def _no_change(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _listen() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(4)
    return listener


def _reset(connection: socket.socket) -> bool:
    """End the connection with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    connection.close()
    return False


@contextlib.contextmanager
def scripted(release: int = RELEASE, product: str = FAST) -> Iterator[ScriptedNanonis]:
    """Scripted electronics that are ended at the end."""
    electronics = ScriptedNanonis(release, product)
    try:
        yield electronics
    finally:
        electronics.close()
