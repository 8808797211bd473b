"""Nanonis framing: messages survive any cutting of the stream, and nonsense is named at once."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LinkLostError, MalformedMessageError, UsageError
from protocols.nanonis import framing
from protocols.nanonis.framing import (
    ClientConnection,
    Request,
    RequestReader,
    Response,
    ResponseReader,
    encode_request,
    encode_response,
)

NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=32)
REQUESTS = st.builds(Request, NAMES, st.binary(max_size=200), st.booleans())
RESPONSES = st.builds(Response, NAMES, st.binary(max_size=200))

POSITION_REQUEST = bytes.fromhex(
    "466F6C4D652E5859506F734765740000000000000000000000000000000000000000000400010000" + "00000001"
)
"""FolMe.XYPosGet that waits for newest data, as the vendor's manual writes it out."""

POSITION_ANSWER = bytes.fromhex(
    "466F6C4D652E5859506F734765740000000000000000000000000000000000000000001800000000"
    "3E35798EE2308C3ABE35798EE2308C3A0000000000000000"
)
"""Its answer: 5 nm, -5 nm, no error."""


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes in pieces, cut at the given places (modulo the length)."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_request_of_the_manual_byte_for_byte() -> None:
    """The manual's example request is what we write, and is read as such."""
    assert encode_request("FolMe.XYPosGet", bytes([0, 0, 0, 1])) == POSITION_REQUEST
    reader = RequestReader()
    reader.feed(POSITION_REQUEST)
    assert reader.next_message() == Request("FolMe.XYPosGet", b"\0\0\0\1", True)


def test_response_of_the_manual_byte_for_byte() -> None:
    """The manual's example response is what we write, and is read as such."""
    assert encode_response("FolMe.XYPosGet", POSITION_ANSWER[40:]) == POSITION_ANSWER
    reader = ResponseReader()
    reader.feed(POSITION_ANSWER)
    assert reader.next_message() == Response("FolMe.XYPosGet", POSITION_ANSWER[40:])


@given(st.lists(REQUESTS, max_size=5), st.lists(st.integers(0, 5000), max_size=12))
def test_requests_survive_any_cutting(requests: list[Request], places: list[int]) -> None:
    """Pipelined requests come out whole and in order, wherever the stream is cut."""
    stream = b"".join(encode_request(r.name, r.body, r.reply_wanted) for r in requests)
    reader = RequestReader()
    found = []
    for piece in cut(stream, places):
        reader.feed(piece)
        while (message := reader.next_message()) is not None:
            found.append(message)
    assert found == requests
    assert reader.waiting == 0
    reader.finish()


@given(st.lists(RESPONSES, max_size=5), st.lists(st.integers(0, 5000), max_size=12))
def test_responses_survive_any_cutting(responses: list[Response], places: list[int]) -> None:
    """Responses come out whole and in order, wherever the stream is cut."""
    stream = b"".join(encode_response(r.name, r.body) for r in responses)
    reader = ResponseReader()
    found = []
    for piece in cut(stream, places):
        reader.feed(piece)
        while (message := reader.next_message()) is not None:
            found.append(message)
    assert found == responses


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_random_bytes_do_no_worse_than_a_named_error(pieces: list[bytes]) -> None:
    """Whatever comes, both readers hand out messages, wait, or raise MalformedMessageError for ever after."""
    for reader in (RequestReader(), ResponseReader()):
        broken = False
        for piece in pieces:
            reader.feed(piece)
            try:
                while reader.next_message() is not None:
                    assert not broken
            except MalformedMessageError:
                broken = True
                assert reader.waiting == 0
            else:
                assert not broken


def test_messages_before_nonsense_are_handed_out() -> None:
    """A whole message in front of nonsense is not lost; after that the reader stays broken."""
    reader = RequestReader()
    reader.feed(encode_request("Bias.Get") + b"GET / HTTP/1.1\r\nHost: there\r\n\r\n" + bytes(40))
    assert reader.next_message() == Request("Bias.Get")
    for _ in range(2):
        with pytest.raises(MalformedMessageError, match="no name of a command"):
            reader.next_message()
    reader.feed(encode_request("Bias.Get"))
    with pytest.raises(MalformedMessageError):
        reader.next_message()
    assert reader.waiting == 0


@pytest.mark.parametrize("size", [-1, framing.LARGEST_REQUEST + 1, 2**31 - 1, -(2**31)])
def test_absurd_sizes_are_refused_before_the_body_comes(size: int) -> None:
    """A negative or oversized body is refused on the header alone: nothing is collected for it."""
    reader = RequestReader()
    reader.feed(struct.pack(">32siHH", b"Bias.Set", size, 1, 0))
    with pytest.raises(MalformedMessageError, match=r"Bias\.Set: a body of"):
        reader.next_message()
    client = ResponseReader(largest=100)
    client.feed(struct.pack(">32siI", b"Bias.Get", size, 0))
    with pytest.raises(MalformedMessageError, match="limit 100"):
        client.next_message()


@pytest.mark.parametrize("name", [b"", b"\0Bias.Get", b"Bias\0Get", b"Bias Get", b"Bias.\xff", b"Bias.Get\n"])
def test_names_that_are_none(name: bytes) -> None:
    """An empty name, one with gaps or one that is no plain ASCII is nonsense."""
    reader = RequestReader()
    reader.feed(struct.pack(">32siHH", name, 0, 1, 0))
    with pytest.raises(MalformedMessageError):
        reader.next_message()


@pytest.mark.parametrize("name", ["", "B" * 33, "Bias Get", "Bias.Gét", "Bias.Get\0"])
def test_names_that_cannot_be_sent(name: str) -> None:
    """The same names are refused before sending."""
    with pytest.raises(UsageError):
        encode_request(name)
    with pytest.raises(UsageError):
        encode_response(name, b"")


def test_the_longest_name_fills_its_place() -> None:
    """A name of 32 characters has no NUL behind it and is read whole."""
    reader = ResponseReader()
    reader.feed(encode_response("N" * 32, b"abc"))
    assert reader.next_message() == Response("N" * 32, b"abc")


def test_oversized_bodies_are_not_sent() -> None:
    """A body beyond the bound is our mistake and never reaches the wire."""
    with pytest.raises(UsageError, match="cannot be sent"):
        encode_request("Pattern.CloudSet", bytes(framing.LARGEST_REQUEST + 1))


def test_a_server_is_lenient_about_flags_a_client_is_not() -> None:
    """Unused bytes of a request are ignored and any flag wants an answer; a response must be clean."""
    server = RequestReader()
    server.feed(struct.pack(">32siHH", b"Bias.Get", 0, 256, 77))
    assert server.next_message() == Request("Bias.Get", b"", True)
    client = ResponseReader()
    client.feed(struct.pack(">32siI", b"Bias.Get", 0, 1))
    with pytest.raises(MalformedMessageError, match="unused"):
        client.next_message()


@pytest.mark.parametrize("size", [1, 39, 40, 43])
def test_an_end_within_a_message_is_told(size: int) -> None:
    """If the peer closes within a message, the error says how much had come."""
    reader = RequestReader()
    reader.feed(POSITION_REQUEST[:size])
    assert reader.next_message() is None
    with pytest.raises(LinkLostError, match=f"{size} of 4[04] bytes"):
        reader.finish()


def test_a_client_gets_its_answers_in_order() -> None:
    """Answers belong to the requests that wanted one, in order; other requests are not awaited."""
    client = ClientConnection()
    sent = client.send("Bias.Get") + client.send("Bias.Set", b"\0" * 4, False) + client.send("Current.Get")
    server = RequestReader()
    server.feed(sent)
    while (request := server.next_message()) is not None:
        if request.reply_wanted:
            client.feed(encode_response(request.name, request.name.encode()))
    assert client.awaited == ("Bias.Get", "Current.Get")
    assert client.next_response() == Response("Bias.Get", b"Bias.Get")
    assert client.next_response() == Response("Current.Get", b"Current.Get")
    assert client.next_response() is None
    client.finish()


@pytest.mark.parametrize("answer", ["Current.Get", "bias.get"])
def test_an_answer_to_something_else_is_an_error(answer: str) -> None:
    """An answer must repeat the name letter for letter; otherwise the connection is out of step."""
    client = ClientConnection()
    client.send("Bias.Get")
    client.feed(encode_response(answer, b""))
    with pytest.raises(MalformedMessageError, match=r"while Bias\.Get was awaited"):
        client.next_response()


def test_an_unasked_answer_is_an_error() -> None:
    """An answer when nothing was asked is an error."""
    client = ClientConnection()
    client.feed(encode_response("Bias.Get", b""))
    with pytest.raises(MalformedMessageError, match="nothing was awaited"):
        client.next_response()


def test_an_end_while_an_answer_is_awaited_is_told() -> None:
    """If the electronics close while an answer is due, the error names the command."""
    client = ClientConnection()
    client.send("ZCtrl.Withdraw", bytes(8))
    with pytest.raises(LinkLostError, match=r"ZCtrl\.Withdraw"):
        client.finish()
