"""The coarse motor, moved by the tests only where that was allowed; the gateway itself never moves it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from actors.gateway.drivers.nanonis.channel import Channel
from actors.gateway.drivers.nanonis.link import Link
from protocols.errors import DriverError
from protocols.nanonis.address import parse_address
from protocols.nanonis.conventions import timeout_ms
from tests.cluster.gateway_harness import await_that

WITHDRAW_S = 20.0
STEPS_S = 60.0
APPROACH_S = 600.0


class CoarseMotor:
    """Motor and automatic approach of Nanonis electronics, over two ports: one that may block, one to stop.

    However it is left, the approach is off and the tip withdrawn.
    """

    def __init__(self, endpoint: str) -> None:
        address = parse_address(endpoint)
        self._channel = Channel(Link(address.host, address.ports[2], "coarse motor"))
        self._urgent = Channel(Link(address.host, address.ports[3], "coarse motor: stop"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._urgent.ask("AutoApproach.OnOffSet", repeat=True, status=False)
        except DriverError as problem:
            if problem.details.get("outcome") != "refused":
                raise  # "refused": its window was never opened
        finally:
            self.withdraw()
            self._channel.link.close()
            self._urgent.link.close()

    def ask(self, name: str, **arguments: Any) -> dict[str, Any]:
        """One command."""
        return self._channel.ask(name, **arguments)

    def withdraw(self) -> None:
        """Controller off, Z at its upper limit; returns when it is there."""
        patience = timeout_ms(WITHDRAW_S)
        self._urgent.ask(
            "ZCtrl.Withdraw", answer_s=WITHDRAW_S + 5.0, repeat=True, wait=True, timeout_ms=patience
        )

    def away(self, steps: int) -> None:
        """Steps away from the sample; the tip is withdrawn."""
        self.ask(
            "Motor.StartMove", answer_s=STEPS_S, direction="z+", number_of_steps=steps, group=0, wait=True
        )

    def approach(self) -> None:
        """The electronics' own automatic approach, until it ends by itself."""
        self.ask("AutoApproach.Open")
        self.ask("AutoApproach.OnOffSet", status=True)
        await_that(
            "the end of the automatic approach",
            lambda: not self.ask("AutoApproach.OnOffGet")["status"],
            APPROACH_S,
        )
