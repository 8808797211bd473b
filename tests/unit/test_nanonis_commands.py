"""The Nanonis command table and the error block: every command both ways, releases, real faults."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import DriverError, MalformedMessageError, UnknownMessageError, UsageError
from protocols.nanonis import replies, types
from protocols.nanonis.commands import KNOWN_RELEASES, RELEASE, Command, Missing, table
from protocols.nanonis.layouts import Layout

NOW = table()
ALL = [table(release)[name] for release in KNOWN_RELEASES for name in table(release)]


def example(layout: Layout, seed: int) -> dict[str, Any]:
    """Values for every field, all different from zero, so that a lost or exchanged field shows."""
    rng = np.random.default_rng(seed)
    shared = int(rng.integers(1, 4))
    made: dict[str, Any] = {}
    for field in layout.fields:
        if field.code == "n":
            shared = int(rng.integers(1, 4))
            continue
        texts = tuple(f"t{rng.integers(100)}" for _ in range(shared))
        element = field.code.strip("[]*")
        if field.code in types.SCALARS:
            made[field.name] = float(rng.integers(1, 99)) if field.code in "fd" else int(rng.integers(1, 99))
        elif field.code == "S":
            made[field.name] = f"text {rng.integers(100)}"
        elif field.code == "M":
            made[field.name] = rng.integers(1, 99, (2, 3)).astype(np.float32)
        elif field.code == "MS":
            made[field.name] = (texts, texts[::-1])
        elif element in types.ELEMENTS:
            made[field.name] = rng.integers(1, 99, shared).astype(np.dtype(types.ELEMENTS[element]))
        else:
            made[field.name] = texts
    return made


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether both hold the same values under the same names in the same order."""
    return list(a) == list(b) and all(
        np.array_equal(a[name], b[name]) if isinstance(a[name], np.ndarray) else a[name] == b[name]
        for name in a
    )


def test_the_table_has_every_documented_command() -> None:
    """As many commands as the manuals of the releases list (13742's leaves out one that 10862 has)."""
    assert len(table(14718)) == 661
    assert len(table(13742)) == 600 + 1
    assert len(table(10862)) == 526


def test_every_command_both_ways() -> None:
    """Arguments and results of every command of every known release come back as they left."""
    for seed, command in enumerate(ALL):
        arguments = example(command.arguments, seed)
        body = command.encode_arguments(**arguments)
        for missing in Missing:
            assert same(command.decode_arguments(body, missing), arguments), command.name
        result = example(command.result, seed + 1)
        data = command.encode_result(*result.values())
        assert same(command.decode_result(data), result), command.name
        assert same(replies.read_reply(command, replies.success(data)), result), command.name


def test_every_reply_of_a_failed_command_is_told_as_an_error() -> None:
    """Zeros with an error, an error alone, and with stray bytes: the text always comes through whole."""
    reason = "Module not available"
    for command in ALL:
        refused = replies.refusal(command.name, reason)
        for body in (replies.failure(command, reason), refused, command.result.zeros() + bytes(8) + refused):
            with pytest.raises(DriverError) as caught:
                replies.read_reply(command, body)
            assert (
                caught.value.details["description"] == f"Error in command: {command.name.lower()}: {reason}"
            )
            assert caught.value.details["command"] == command.name


@pytest.mark.parametrize(
    ("name", "arguments", "body"),
    [
        ("FolMe.XYPosSet", (10e-9, 15e-9, 1), "3E45798EE2308C3A3E501B2B29A4692B00000001"),
        ("FolMe.XYPosGet", (1,), "00000001"),
        ("Bias.Set", (0.5,), "3F000000"),
        ("Bias.Pulse", (1, 0.5, -2.0, 1, 2), "000000013F000000C000000000010002"),
        ("Scan.Action", (0, 1), "000000000001"),
        ("Scan.BufferSet", ([0, 30], 64, 32), "00000002000000000000001E0000004000000020"),
        ("Motor.StartMove", (5, 2, 0, 1), "0000000500020000000000000001"),
        ("BiasSpectr.Start", (1, ""), "0000000100000000"),
        ("BiasSpectr.MLSModeSet", ("MLS",), "000000034D4C53"),
        ("Scan.WaitEndOfScan", (-1,), "FFFFFFFF"),
        ("Piezo.DriftCompSet", (1, 0, 0, 0, 10), "0000000100000000000000000000000041200000"),
        (
            "BiasSpectr.MLSValsSet",
            ([-1.0], [1.0], [0.0], [0.0], [0.5], [10], [1]),
            "00000001BF8000003F80000000000000000000003F0000000000000A00000001",
        ),
        (
            "Marks.PointsDraw",
            ([0.5], [1.0], ("x",), [255]),
            "000000013F0000003F800000000000010000000178000000FF",
        ),
    ],
)
def test_requests_byte_for_byte(name: str, arguments: tuple[Any, ...], body: str) -> None:
    """Arguments are laid out as the manual has them."""
    assert NOW[name].encode_arguments(*arguments).hex().upper() == body


@pytest.mark.parametrize(
    ("name", "result", "body"),
    [
        ("FolMe.XYPosGet", (5e-9, -5e-9), "3E35798EE2308C3ABE35798EE2308C3A"),
        ("Bias.Get", (0.5,), "3F000000"),
        ("Scan.WaitEndOfScan", (0, "a"), "000000000000000161"),
        (
            "Scan.FrameDataGrab",
            ("Z (m)", [[1.0, 2.0]], 1),
            "000000055A20286D2900000001000000023F8000004000000000000001",
        ),
        (
            "Current.GainsGet",
            (("a",), 0, ("b",), 1),
            "00000005000000010000000161000000000000000500000001000000016200000001",
        ),
    ],
)
def test_results_byte_for_byte(name: str, result: tuple[Any, ...], body: str) -> None:
    """Results are laid out as the manual has them; the error block follows."""
    assert replies.success(NOW[name].encode_result(*result)).hex().upper() == body + "00" * 8


def test_the_smallest_answer_is_eight_zero_bytes() -> None:
    """A command without a result answers the error block alone."""
    assert replies.success() == bytes(8)
    assert replies.read_reply(NOW["Bias.Set"], bytes(8)) == {}


def test_commands_are_found_in_any_case() -> None:
    """Names match in any case, and keep the manual's spelling."""
    assert NOW["bias.GET"].name == "Bias.Get"
    assert NOW["Bias.Get"].module == "Bias"
    assert "SCAN.ACTION" in NOW
    assert 7 not in NOW


def test_an_unknown_command_is_told() -> None:
    """An unknown command raises with its name, or is None when one only asks."""
    assert NOW.find("Bias.Got") is None
    with pytest.raises(UnknownMessageError, match=r"release 14718 has no command 'Bias\.Got'") as caught:
        NOW["Bias.Got"]
    assert caught.value.details["kind"] == "Bias.Got"


def test_the_answer_to_an_unknown_command() -> None:
    """It is an error block alone, with the command in lower case as the electronics write it."""
    body = replies.refusal("Signals.InSlotsGet", replies.UNKNOWN_COMMAND)
    text = b"Error in command: signals.inslotsget: Unknown command"
    assert body == struct.pack(">Ii", 1, len(text)) + text


def test_slots_ended_after_the_first_known_release() -> None:
    """The 24 slots exist up to release 10862 only."""
    assert table(10862)["Signals.InSlotsGet"].result.names == ("names", "indexes")
    assert "Signals.InSlotsGet" not in table(13742)
    assert "Signals.InSlotsGet" not in NOW


@pytest.mark.parametrize(
    ("name", "last", "old", "new"),
    [
        (
            "Current.GainsGet",
            13741,
            ("gains", "gain_index"),
            ("gains", "gain_index", "filters", "filter_index"),
        ),
        ("BiasSpectr.ChsGet", 11797, ("channel_indexes",), ("channel_indexes", "channels")),
        ("Scan.PropsGet", 14572, ("modules", "parameters_per_module", "parameters"), ("autopaste",)),
    ],
)
def test_layouts_change_with_the_release(
    name: str, last: int, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    """The layout changes right after the last release of the old one."""
    assert table(last)[name].result.names[-len(old) :] == old
    assert table(last + 1)[name].result.names[-len(new) :] == new


def test_newer_and_older_releases_count_as_the_nearest_known() -> None:
    """A release beyond the known ones gets the nearest layouts."""
    assert table(15216)["Scan.PropsSet"].arguments == NOW["Scan.PropsSet"].arguments
    assert table(9432)["Current.GainSet"].arguments.names == ("gain_index",)


@pytest.mark.parametrize(
    ("name", "older", "added"),
    [
        ("Motor.StartClosedLoop", (1, 1e-6, 2e-6, 3e-6, 0), {"group": 0}),
        ("UserOut.LimitsSet", (1, 5.0, -5.0), {"raw_limits": 0}),
        ("UserOut.LimitsGet", (1,), {"raw_limits": 0}),
        ("Motor.PosGet", (), {"group": 0, "timeout_ms": 0}),
        ("Motor.FreqAmpGet", (), {"axis": 0}),
        ("Scan.PropsSet", (1, 2, 3, "name", "comment"), {"modules": (), "autopaste": 0}),
    ],
)
def test_requests_of_older_clients_are_understood(
    name: str, older: tuple[Any, ...], added: dict[str, Any]
) -> None:
    """Arguments that an older release did not have may be missing and count as zero."""
    body = table(10862)[name].encode_arguments(*older)
    values = NOW[name].decode_arguments(body)
    assert tuple(values.values())[: len(older)] == older
    assert {field: values[field] for field in added} == added
    with pytest.raises(MalformedMessageError):
        NOW[name].decode_arguments(body, Missing.REFUSE)


def test_a_missing_bias_is_not_zero_volts() -> None:
    """An argument that every release has must be there, unless the server wants zeros for all."""
    with pytest.raises(MalformedMessageError, match=r"arguments of Bias\.Set, bias_v"):
        NOW["Bias.Set"].decode_arguments(b"")
    assert NOW["Bias.Set"].decode_arguments(b"", Missing.ZERO) == {"bias_v": 0.0}


def test_an_inserted_argument_is_not_taken_for_an_added_one() -> None:
    """An older request that lacks the first argument is refused: it would be read as something else."""
    body = table(10862)["OsciHR.ChSet"].encode_arguments(24)
    with pytest.raises(MalformedMessageError):
        NOW["OsciHR.ChSet"].decode_arguments(body)


def test_arguments_in_an_older_type_are_understood() -> None:
    """The same arguments with an older release's types are read, if their size fits exactly."""
    body = table(13742)["DigLines.TTLValGet"].encode_arguments(3)
    assert body == b"\0\3"
    assert NOW["DigLines.TTLValGet"].decode_arguments(body) == {"port": 3}
    for missing, given_body in ((Missing.REFUSE, body), (Missing.OLDER_CLIENTS, body + b"x")):
        with pytest.raises(MalformedMessageError):
            NOW["DigLines.TTLValGet"].decode_arguments(given_body, missing)


def test_points_with_a_size_before_their_number_are_understood() -> None:
    """A public client writes the texts of points like a string array; another number of texts is refused."""
    wire = "00000002 3F0000003E800000 3F80000040000000 00000008 00000002 00000002 6162 00000003 636465"
    body = bytes.fromhex(wire) + bytes.fromhex("00000001 00000002")
    values = NOW["Marks.PointsDraw"].decode_arguments(body)
    assert values["text"] == ("ab", "cde")
    assert np.array_equal(values["colour"], [1, 2])  # type: ignore[arg-type]
    with pytest.raises(MalformedMessageError, match="2 strings are awaited"):
        NOW["Marks.PointsDraw"].decode_arguments(body[:27] + b"\7" + body[28:])


def test_surplus_bytes_of_a_request_are_ignored() -> None:
    """A request may have bytes behind its last argument."""
    body = NOW["Bias.Set"].encode_arguments(0.5) + b"surplus"
    assert NOW["Bias.Set"].decode_arguments(body) == {"bias_v": 0.5}


def test_surplus_bytes_of_a_result_are_an_error() -> None:
    """A good answer with bytes that the layout does not have is not half understood."""
    with pytest.raises(MalformedMessageError, match="1 bytes too many"):
        NOW["Bias.Get"].decode_result(bytes(5))
    with pytest.raises(MalformedMessageError, match="fit no known release"):
        replies.read_reply(NOW["Bias.Get"], struct.pack(">ff", 0.5, 0.25) + replies.encode_error())


def test_values_are_named_in_errors() -> None:
    """A wrong call names the command and the field."""
    with pytest.raises(UsageError, match=r"arguments of Bias\.Set, bias_v: 'much'"):
        NOW["Bias.Set"].encode_arguments("much")
    with pytest.raises(UsageError, match=r"arguments of Bias\.Set: bias_v is missing"):
        NOW["Bias.Set"].encode_arguments()


def test_a_good_answer_in_another_releases_layout_is_understood() -> None:
    """If the body fits another release exactly, its values come with that release's names."""
    body = replies.success(table(10862)["Current.GainsGet"].encode_result(("1E9 V/A",), 0))
    assert replies.read_reply(NOW["Current.GainsGet"], body) == {"gains": ("1E9 V/A",), "gain_index": 0}


def test_a_missing_result_is_an_error() -> None:
    """All is well, but the value is not there: no value is made up."""
    with pytest.raises(MalformedMessageError, match=r"Bias\.Get"):
        replies.read_reply(NOW["Bias.Get"], replies.encode_error())


def test_no_error_block_is_an_error() -> None:
    """Bytes without a block are told with their beginning."""
    with pytest.raises(MalformedMessageError, match="no error block in 6 bytes"):
        replies.read_reply(NOW["Bias.Get"], b"\xff" * 6)


def test_a_zero_value_is_not_taken_for_a_block() -> None:
    """A result of zeros is a result."""
    assert replies.read_reply(NOW["Bias.Get"], bytes(12)) == {"bias_v": 0.0}
    with pytest.raises(MalformedMessageError):
        replies.read_reply(NOW["Bias.Get"], bytes(20))


def test_an_error_without_a_reason_is_still_an_error() -> None:
    """Status 1 with an empty description raises, with or without the result before it."""
    for body in (struct.pack(">fIi", 0, 1, 0), struct.pack(">Ii", 1, 0)):
        with pytest.raises(DriverError, match="no reason was given"):
            replies.read_reply(NOW["Bias.Get"], body)


def test_a_note_with_status_zero_is_no_error() -> None:
    """The status decides: a text beside status 0 does not make the result invalid."""
    body = struct.pack(">fIi", 0.5, 0, 4) + b"note"
    assert replies.read_reply(NOW["Bias.Get"], body) == {"bias_v": 0.5}


def test_line_ends_belong_to_a_description() -> None:
    """The electronics put line ends and tags into their texts."""
    text = replies.error_description("TipShaper.Start", replies.module_closed("Tip Shaper") + "\r\n<b>x</b>")
    with pytest.raises(
        DriverError, match=r"(?s)refused TipShaper\.Start: Error in command: tipshaper\.start"
    ):
        replies.read_reply(NOW["TipShaper.Start"], b"stray" + replies.encode_error(1, text))


def test_our_descriptions_suit_every_public_client() -> None:
    """Errors always carry a text, success never does, and the text is ASCII."""
    with pytest.raises(UsageError):
        replies.encode_error(1, "")
    with pytest.raises(UsageError):
        replies.encode_error(0, "all is well")
    with pytest.raises(UsageError):
        replies.encode_error(1, "x" * (replies.LARGEST_DESCRIPTION + 1))
    assert replies.error_description("Bias.Set", "") == "Error in command: bias.set: Unknown reason"
    assert replies.encode_error(1, "5 µA").endswith(b"5 ?A")


@given(st.sampled_from(sorted(NOW)), st.binary(max_size=120))
@settings(max_examples=300)
def test_random_answers_do_no_worse_than_a_named_error(name: str, body: bytes) -> None:
    """Whatever the electronics answer: values, their error, or MalformedMessageError."""
    try:
        values = replies.read_reply(NOW[name], body)
    except (MalformedMessageError, DriverError):
        return
    assert all(isinstance(field, str) for field in values)


@given(st.sampled_from(sorted(NOW)), st.binary(max_size=120), st.sampled_from(Missing))
@settings(max_examples=300)
def test_random_requests_do_no_worse_than_a_named_error(name: str, body: bytes, missing: Missing) -> None:
    """Whatever a client sends: values for every argument, or MalformedMessageError."""
    command: Command = NOW[name]
    try:
        values = command.decode_arguments(body, missing)
    except MalformedMessageError:
        return
    assert tuple(values) == command.arguments.names


@given(st.binary(max_size=40), st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_an_error_is_found_behind_any_stray_bytes(stray: bytes, text: str) -> None:
    """An error with a legible text is told wherever it begins."""
    with pytest.raises(DriverError) as caught:
        replies.read_reply(NOW["Bias.Set"], stray + b"\xff" + replies.encode_error(1, text))
    assert caught.value.details["description"] == text


def test_searching_a_large_answer_for_its_error_is_bounded() -> None:
    """Only the end of a long answer is searched: no description is longer than the bound."""
    body = bytes(2**20) + b"\xff" * 4
    with pytest.raises(MalformedMessageError):
        replies.read_reply(NOW["Bias.Get"], body)
    assert NOW.release == RELEASE
