"""One connection to Nanonis electronics: deadlines, connecting anew, and what an error tells."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from actors.gateway.drivers.nanonis.channel import Channel
from actors.gateway.drivers.nanonis.link import Link
from protocols.errors import DriverError
from tests.unit.scripted_nanonis import ScriptedNanonis, scripted


@pytest.fixture
def electronics() -> Iterator[ScriptedNanonis]:
    """Scripted electronics on four free ports."""
    with scripted() as found:
        yield found


def channel_to(electronics: ScriptedNanonis, place: int = 0) -> Channel:
    """A channel to one of the ports."""
    return Channel(Link("127.0.0.1", electronics.ports[place], "test"))


def test_a_question_is_answered(electronics: ScriptedNanonis) -> None:
    """Values come back by name, rounded as float32 rounds them."""
    channel = channel_to(electronics)
    assert channel.ask("Bias.Get") == {"bias_v": pytest.approx(0.1, rel=1e-6)}
    assert channel.link.connections == 1
    channel.link.close()


def test_a_time_out_says_what_was_awaited_from_whom_and_what_came_last(electronics: ScriptedNanonis) -> None:
    """Command, address, seconds, the last answer and what to do stand in the error; outcome unknown."""
    channel = channel_to(electronics)
    channel.ask("Bias.Get")
    electronics.plan("Bias.Set", "hold")
    with pytest.raises(DriverError) as silent:
        channel.ask("Bias.Set", bias_v=0.2, answer_s=0.1)
    text = str(silent.value)
    assert "awaited an answer to Bias.Set" in text
    assert f"127.0.0.1:{electronics.ports[0]}" in text
    assert "0.1" in text
    assert "the last answer: Bias.Get" in text
    assert "See whether" in text
    assert silent.value.details["outcome"] == "unknown"
    assert silent.value.details["waited_s"] >= 0.1
    channel.link.close()


def test_after_a_time_out_the_next_request_gets_its_own_answer(electronics: ScriptedNanonis) -> None:
    """The late answer goes with the old connection; a harmless question is asked before a command."""
    channel = channel_to(electronics)
    electronics.plan("Bias.Set", "hold")
    with pytest.raises(DriverError):
        channel.ask("Bias.Set", bias_v=0.2, answer_s=0.1)
    electronics.held.set()
    channel.ask("ZCtrl.SetpntSet", setpoint=2e-10)
    assert channel.ask("Bias.Get")["bias_v"] == pytest.approx(0.2, rel=1e-6)
    assert electronics.said("ZCtrl.SetpntSet") == [{"setpoint": pytest.approx(2e-10, rel=1e-6)}]
    assert channel.link.connections == 2
    channel.link.close()


def test_a_port_that_is_still_busy_is_said_to_be_and_nothing_is_sent(electronics: ScriptedNanonis) -> None:
    """While the electronics work on what we gave up, another command is refused here, not lost there."""
    channel = channel_to(electronics)
    electronics.plan("Bias.Set", "hold")
    with pytest.raises(DriverError):
        channel.ask("Bias.Set", bias_v=0.2, answer_s=0.05)
    with pytest.raises(DriverError, match="was not sent") as busy:
        channel.ask("ZCtrl.OnOffSet", status=True)
    assert busy.value.details["outcome"] == "not sent"
    electronics.held.set()
    channel.ask("Bias.Get")
    assert electronics.said("ZCtrl.OnOffSet") == []
    channel.link.close()


def test_the_reset_that_follows_a_time_out_hits_no_command(electronics: ScriptedNanonis) -> None:
    """The electronics reset the first exchange after a client gave up: a question takes it."""
    channel = channel_to(electronics)
    electronics.plan("Bias.Set", "hold")
    with pytest.raises(DriverError):
        channel.ask("Bias.Set", bias_v=0.2, answer_s=0.05)
    electronics.held.set()
    electronics.plan("Bias.Get", "reset")
    channel.ask("ZCtrl.SetpntSet", setpoint=2e-10)
    assert len(electronics.said("ZCtrl.SetpntSet")) == 1
    channel.link.close()


@pytest.mark.parametrize("fault", ["reset", "reset after", "half", "wrong name"])
def test_a_command_whose_answer_is_lost_is_not_repeated(electronics: ScriptedNanonis, fault: str) -> None:
    """Whether it was carried out is unknown, and said so; it came once."""
    channel = channel_to(electronics)
    electronics.plan("Bias.Pulse", fault)
    with pytest.raises(DriverError, match="Whether it was carried out is unknown") as lost:
        channel.ask(
            "Bias.Pulse", wait=True, width_s=0.1, bias_v=3.0, z_hold=True, absolute_relative="absolute"
        )
    assert lost.value.details["outcome"] == "unknown"
    assert len(electronics.said("Bias.Pulse")) == 1
    assert channel.ask("Bias.Get")["bias_v"] == pytest.approx(0.1, rel=1e-6)
    channel.link.close()


def test_a_question_whose_connection_broke_is_asked_again(electronics: ScriptedNanonis) -> None:
    """Reading twice is the same as reading once."""
    channel = channel_to(electronics)
    channel.ask("Bias.Get")
    electronics.plan("ZCtrl.ZPosGet", "reset", "reset")
    assert channel.ask("ZCtrl.ZPosGet")["z_position_m"] == pytest.approx(250e-9, rel=1e-6)
    assert len(electronics.said("ZCtrl.ZPosGet")) == 3
    channel.link.close()


def test_an_idle_connection_that_was_closed_is_opened_again_before_a_command(
    electronics: ScriptedNanonis,
) -> None:
    """Electronics that were restarted in between cost nothing: the command goes over a new connection."""
    channel = channel_to(electronics)
    electronics.plan("Bias.Get", "half")
    with pytest.raises(DriverError):
        channel.ask("Bias.Get", repeat=False)
    channel.ask("Bias.Set", bias_v=0.3)
    assert len(electronics.said("Bias.Set")) == 1
    channel.link.close()


@pytest.mark.parametrize("fault", ["block", "zeros", "stray"])
def test_an_error_is_found_wherever_it_stands(electronics: ScriptedNanonis, fault: str) -> None:
    """Error alone, behind zeros, behind stray bytes: the electronics' own words come out; the link lives."""
    channel = channel_to(electronics)
    electronics.plan("Current.GainsGet", fault)
    with pytest.raises(DriverError, match=r"Unflatten|Module not available") as refused:
        channel.ask("Current.GainsGet")
    assert refused.value.details["outcome"] == "refused"
    assert channel.ask("Current.GainsGet")["gain_index"] == 1
    assert channel.link.connections == 1
    channel.link.close()


def test_a_second_thread_waits_for_its_turn_within_its_deadline(electronics: ScriptedNanonis) -> None:
    """What occupies the port, and since when, is in the error; nothing is sent meanwhile."""
    channel = channel_to(electronics)
    electronics.plan("Bias.Set", "hold")
    long = threading.Thread(target=lambda: channel.ask("Bias.Set", bias_v=0.2, answer_s=5.0))
    long.start()
    electronics.await_call("Bias.Set")
    with pytest.raises(DriverError, match=r"busy with Bias\.Set"):
        channel.ask("Bias.Get", answer_s=0.05)
    electronics.held.set()
    long.join(5.0)
    assert channel.ask("Bias.Get")["bias_v"] == pytest.approx(0.2, rel=1e-6)
    channel.link.close()


def test_closing_wakes_the_thread_that_waits(electronics: ScriptedNanonis) -> None:
    """A request under way fails at once when its link is closed."""
    channel = channel_to(electronics)
    electronics.plan("Bias.Set", "hold")
    errors: list[DriverError] = []

    def ask() -> None:
        try:
            channel.ask("Bias.Set", bias_v=0.2, answer_s=30.0)
        except DriverError as lost:
            errors.append(lost)

    waiting = threading.Thread(target=ask)
    waiting.start()
    electronics.await_call("Bias.Set")
    channel.link.close()
    waiting.join(5.0)
    assert errors
    assert errors[0].details["outcome"] == "unknown"


def test_a_new_link_takes_the_port_over_from_an_old_one(electronics: ScriptedNanonis) -> None:
    """A port serves one client: the old connection of this process ends, also while it is idle; whichever
    link is used next has the port."""
    old, new = channel_to(electronics), channel_to(electronics)
    for channel in (old, new, old):
        assert channel.ask("Bias.Get")["bias_v"] == pytest.approx(0.1, rel=1e-6)
    assert (old.link.connections, new.link.connections) == (2, 1)
    old.link.close()
    new.link.close()


def test_a_link_that_cannot_connect_takes_nothing_away() -> None:
    """While the electronics are away, trying to connect leaves other links as they were."""
    with scripted() as electronics:
        old = channel_to(electronics)
        old.ask("Bias.Get")
    new = channel_to(electronics)
    for channel in (new, old):
        with pytest.raises(DriverError, match="no connection"):
            channel.ask("Bias.Get")


def test_nobody_at_the_port_is_told_with_the_address() -> None:
    """No connection: the address, and what to look at."""
    with scripted() as electronics:
        port = electronics.ports[0]
    channel = Channel(Link("127.0.0.1", port, "test"))
    with pytest.raises(DriverError, match=f"no connection to 127.0.0.1:{port}") as absent:
        channel.ask("Bias.Get")
    assert absent.value.details["outcome"] == "not sent"


def test_a_command_that_the_release_lacks_is_not_sent(electronics: ScriptedNanonis) -> None:
    """What cannot be said is an error here; the connection is not even opened."""
    channel = channel_to(electronics)
    with pytest.raises(DriverError, match="cannot be said"):
        channel.ask("Signals.InSlotsGet")
    with pytest.raises(DriverError, match="cannot be said"):
        channel.ask("Bias.Set", bias_v="much")
    assert channel.link.connections == 0
