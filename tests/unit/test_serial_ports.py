"""Finding a port: device file, name that stays, site's file, simulated."""

from __future__ import annotations

from pathlib import Path

import pytest
from serial_parts import thermometer

from actors.gateway.drivers.serial.adapter import PortLostError
from actors.gateway.drivers.serial.ports import SITE_FILE, find_port, open_port
from protocols.errors import ConfigError
from protocols.files.state_directory import publish_endpoints

NAMES = (
    "usb-FTDI_FT232R_A601-if00-port0",
    "usb-Lake_Shore_Model_335_LSA1-if00",
    "usb-Lake_Shore_Model_335_LSB2-if00",
)


@pytest.fixture
def by_id(tmp_path: Path) -> Path:
    """A folder like /dev/serial/by-id."""
    folder = tmp_path / "by-id"
    folder.mkdir()
    for name in NAMES:
        (folder / name).touch()
    return folder


def test_a_device_file_is_taken_as_it_is(tmp_path: Path, by_id: Path) -> None:
    """Also one on another system."""
    for port in ("/dev/ttyUSB0", "/dev/serial/by-id/usb-x", "COM3"):
        assert find_port(thermometer(port=port), tmp_path, by_id) == port


def test_a_part_of_the_name_that_stays_is_enough_if_it_is_one_alone(tmp_path: Path, by_id: Path) -> None:
    """The serial number in it tells two of a kind apart; the error lists what there is."""
    assert find_port(thermometer(port="LSB2"), tmp_path, by_id) == str(by_id / NAMES[2])
    assert find_port(thermometer(port=NAMES[1]), tmp_path, by_id) == str(by_id / NAMES[1])
    with pytest.raises(ConfigError, match=r"several ports match: .*LSA1.*LSB2"):
        find_port(thermometer(port="Lake_Shore"), tmp_path, by_id)
    with pytest.raises(ConfigError, match=r"there is no such port.*FT232R"):
        find_port(thermometer(port="Prolific"), tmp_path, by_id)
    with pytest.raises(ConfigError, match="There are: none"):
        find_port(thermometer(port="Prolific"), tmp_path, tmp_path / "nowhere")


def test_the_site_says_where_its_instruments_are(tmp_path: Path, by_id: Path) -> None:
    """So that a campaign can be taken to another laboratory; the error says where to add an entry."""
    with pytest.raises(ConfigError, match=r"temperature has no port.*\[auxiliary.temperature\].*ports.toml"):
        find_port(thermometer(), tmp_path, by_id)
    (tmp_path / SITE_FILE).write_text('[ports]\nlockin = "/dev/ttyS0"\n')
    with pytest.raises(ConfigError, match="names no port for temperature"):
        find_port(thermometer(), tmp_path, by_id)
    (tmp_path / SITE_FILE).write_text('[ports]\ntemperature = "LSA1"\n')
    assert find_port(thermometer(), tmp_path, by_id) == str(by_id / NAMES[1])
    (tmp_path / SITE_FILE).write_text("[ports\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_port(thermometer(), tmp_path, by_id)


def test_simulated_instruments_are_found_by_their_name(tmp_path: Path, by_id: Path) -> None:
    """While they do not run, that is an error which passes: the run waits."""
    with pytest.raises(PortLostError, match=r"stmctl simulate serial --instrument temperature=lakeshore335"):
        find_port(thermometer(port="simulated"), tmp_path, by_id)
    publish_endpoints(tmp_path, "serial", ports={"temperature": "/dev/pts/7"})
    assert find_port(thermometer(port="simulated"), tmp_path, by_id) == "/dev/pts/7"
    publish_endpoints(tmp_path, "serial", ports={"cold": "/dev/pts/7"})
    with pytest.raises(PortLostError, match="the simulated instruments are called cold"):
        find_port(thermometer(port="simulated"), tmp_path, by_id)


def test_a_port_that_is_not_there_is_lost_not_a_mistake(tmp_path: Path) -> None:
    """It may be plugged in later; the error names it and what to look at."""
    with pytest.raises(PortLostError, match=r"the port .*nothing cannot be opened.*dialout"):
        open_port(thermometer(), str(tmp_path / "nothing"))
