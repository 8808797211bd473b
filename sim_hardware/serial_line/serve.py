"""``stmctl simulate serial``: simulated instruments on pseudo-terminals, as a process of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click
import structlog

from protocols.errors import ConfigError, TunnelpilotError, UnknownMessageError
from protocols.files.logs import configure_logging
from protocols.files.quantities import parse_quantity
from protocols.files.state_directory import ProcessLock, default_state_directory, publish_endpoints
from protocols.instrument.auxiliary import MODELS
from protocols.links.server import CommandServer
from protocols.messages.base import Message
from protocols.messages.serialdoor import (
    SerialSimFault,
    SerialSimInstrument,
    SerialSimQuery,
    SerialSimSet,
    SerialSimStatus,
)
from sim_hardware.serial_line.device import Device
from sim_hardware.serial_line.faults import LineFaults, parse_faults
from sim_hardware.serial_line.lakeshore import SimulatedLakeShore
from sim_hardware.serial_line.line import Line
from sim_hardware.serial_line.ports import PtyPort, SerialRack
from sim_hardware.serial_line.sr830 import SimulatedSR830

PROCESS = "serial"
LOOK_S = 0.05
"""Between two looks at the control's socket."""
DEFAULT = ("temperature=lakeshore335", "lockin=sr830")
BITS = 10
"""Of a character on the line, start and stop included."""

log = structlog.get_logger(__name__)


def make_device(model: str, seed: int, temperature_k: float) -> Device:
    """A simulated instrument by the name of its model.

    Raises:
        ConfigError: no such model.
    """
    if model == "sr830":
        return SimulatedSR830(seed)
    if model in ("lakeshore335", "lakeshore336"):
        return SimulatedLakeShore(int(model[-3:]), seed, temperature_k)
    raise ConfigError(f"there is no simulated {model!r}.", f"Known: {', '.join(MODELS)}.")


def make_rack(
    instruments: Sequence[str],
    seed: int = 0,
    temperature_k: float = 4.3,
    faults: str = "",
    paced: bool = True,
) -> SerialRack:
    """Ports for ``NAME=MODEL`` instruments; ``paced``: characters take the time that they take on the line.

    Raises:
        ConfigError: a name twice, no such model, no such fault.
    """
    ports: dict[str, PtyPort] = {}
    try:
        for number, text in enumerate(instruments):
            name, equals, model = text.partition("=")
            if not equals or not name or name in ports:
                raise ConfigError(f"{text!r} is not NAME=MODEL with a name of its own.")
            device = make_device(model, seed + number, temperature_k)
            byte_s = BITS / MODELS[model].baud if paced else 0.0
            ports[name] = PtyPort(Line(device, LineFaults(seed), byte_s))
        rack = SerialRack(ports)
        for name, kind, count, seconds in parse_faults(faults):
            _port(rack, name).line.faults.plan(kind, count, seconds)
    except BaseException:
        for port in ports.values():
            port.close()
        raise
    return rack


def serve(rack: SerialRack, state: Path, say: bool = True) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        AlreadyRunningError: another one has this state directory.
    """
    lock = ProcessLock(state, PROCESS)
    lock.acquire()
    ended: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        ended.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    server = CommandServer("tcp://127.0.0.1:0", "simulated serial instruments")
    try:
        paths = {name: port.path for name, port in rack.ports.items()}
        publish_endpoints(state, PROCESS, commands=server.endpoint, ports=paths)
        log.info("open", ports=paths)
        if say:
            for name, port in rack.ports.items():
                model = MODELS[port.line.device.name]
                settings = f"{model.baud} baud, {model.data_bits}{model.parity}1"
                click.echo(f"{name}: {model.title} at {port.path} ({settings})")
            click.echo('Ctrl-C ends them. In a campaign: [auxiliary.NAME] with port = "simulated".')
        while not ended:
            rack.serve_once(LOOK_S)
            for request in server.poll(0.0):
                try:
                    request.reply(answer(rack, request.message))
                except TunnelpilotError as refusal:
                    request.refuse(refusal)
    finally:
        (state / PROCESS / "endpoints.json").unlink(missing_ok=True)
        server.close()
        rack.close()
        lock.release()
        log.info("closed")


def answer(rack: SerialRack, message: Message) -> Message:
    """Do what the control is asked.

    Raises:
        ConfigError: no such instrument, quantity or fault.
        UnknownMessageError: something else was asked.
    """
    match message:
        case SerialSimQuery():
            pass
        case SerialSimSet():
            device = _port(rack, message.instrument).line.device
            device.now_s = max(device.now_s, time.monotonic())
            device.set_quantity(message.quantity, message.value)
        case SerialSimFault():
            faults = _port(rack, message.instrument).line.faults
            faults.plan(message.kind, message.count, message.seconds)
        case _:
            kind = type(message).__name__
            raise UnknownMessageError(
                f"the simulated instruments have nothing to do with a {kind}.", kind=kind
            )
    return SerialSimStatus(
        pid=os.getpid(),
        instruments=tuple(
            SerialSimInstrument(
                name=name,
                model=port.line.device.name,
                port=port.path,
                commands=port.line.commands,
                truth=port.line.device.quantities(),
            )
            for name, port in rack.ports.items()
        ),
    )


def _port(rack: SerialRack, name: str) -> PtyPort:
    if name not in rack.ports:
        raise ConfigError(f"there is no instrument {name!r}.", f"There are: {', '.join(rack.ports)}.")
    return rack.ports[name]


@click.command("serial")
@click.option(
    "--instrument",
    "instruments",
    multiple=True,
    metavar="NAME=MODEL",
    help="sr830, lakeshore335 or lakeshore336; may be repeated "
    "(default: temperature=lakeshore335 lockin=sr830).",
)
@click.option("--temperature", default="4.3K", help="Of cryostat and sensors when it begins.")
@click.option("--seed", default=0, help="Of the noise.")
@click.option("--faults", default="", help="Of the first answers: NAME:KIND[:COUNT[:SECONDS]],...")
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), help="State directory.")
@click.pass_context
def serial_command(
    ctx: click.Context,
    instruments: tuple[str, ...],
    temperature: str,
    seed: int,
    faults: str,
    state: Path | None,
) -> None:
    """Simulate serial instruments on pseudo-terminals, until Ctrl-C.

    Each can be opened like a serial port, by a program or a person with a terminal: SR830 commands end with a
    carriage return or line feed, Lake Shore commands with a line feed.  Faults: late, silent, garbage, cut,
    terminator, double, split, noise.
    """
    root = ctx.find_root().obj
    folder = state or (root if isinstance(root, Path) else default_state_directory())
    rack = make_rack(instruments or DEFAULT, seed, parse_quantity(temperature, "temperature"), faults)
    configure_logging(PROCESS, folder / PROCESS / "serial.log")
    serve(rack, folder.expanduser().absolute())


if __name__ == "__main__":
    serial_command()
