"""Who may send what, and hazardous commands in two steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from flightsw.decide.authority import Authority
from flightsw.dictionary.commands import COMMANDS, FailureCode, Value, digest_of, pack_arguments
from flightsw.errors import ConfigError
from flightsw.keyfile import End, open_ring, write_keys
from flightsw.link.keys import family_of, make_keys, spi_of
from flightsw.link.sdls import CommandSeal
from flightsw.link.services import CommandReceiver, build_file_uplink
from flightsw.mission import Station, parse
from flightsw.state import Received

MISSION = Path(__file__).resolve().parents[2] / "missions" / "iss_like.toml"
SCID, APID = 42, 100
MAIN, READER = spi_of(1, 0), spi_of(2, 1)
STATIONS = (Station("Main", 0.0, 0.0, 0.0, 5.0), Station("Reader", 0.0, 0.0, 0.0, 5.0, ("ping", "hk.*", "schedule.*")))


def received(spi: int, verb: str, *values: Value) -> Received:
    row = COMMANDS[verb]
    return Received(7, row.service, row.subservice, pack_arguments(row, values), spi)


def digest(verb: str, *values: Value) -> str:
    command = received(0, verb, *values)
    return digest_of(command.service, command.subservice, command.data)


@pytest.mark.parametrize(("spi", "verb", "values", "may"), [
    (MAIN, "safe", (), True), (MAIN, "mode", (0x33,), True), (0, "safe", (), True),
    (READER, "ping", (), True), (READER, "hk.report", (1,), True), (READER, "safe", (), False),
    (READER, "param.set", ("die_max_c", 70.0), False), (spi_of(3, 0), "ping", (), False),
    (READER, "schedule.insert", (1, 2e9, "ping"), True), (READER, "schedule.insert", (1, 2e9, "safe"), False),
])
def test_a_station_sends_what_its_mission_lets_it(spi: int, verb: str, values: tuple[Value, ...], may: bool) -> None:
    refusal = Authority(STATIONS).refusal(received(spi, verb, *values), 0.0)
    assert (refusal is None) == may
    if refusal is not None:
        assert refusal.code == FailureCode.NOT_AUTHORISED
        assert "may not send" in refusal.text


def test_a_hazardous_command_fires_once_and_only_as_it_was_armed() -> None:
    authority = Authority(STATIONS)
    fire = received(MAIN, "data.erase", "acme")
    assert _code(authority, fire, 0.0) == FailureCode.NOT_ARMED
    authority.arm(MAIN, digest("data.erase", "acme"), 60.0)
    assert _code(authority, received(MAIN, "ping"), 1.0) is None  # what is between does not matter
    assert _code(authority, fire, 60.0) is None
    assert _code(authority, fire, 60.0) == FailureCode.NOT_ARMED  # not twice
    for armed, station, at_s in ((("data.erase", "acme"), MAIN, 60.1), (("data.erase", "acne"), MAIN, 1.0),
                                 (("data.erase", "acme"), READER, 1.0)):
        authority.arm(station, digest(*armed), 60.0)
        assert _code(authority, fire, at_s) == FailureCode.NOT_ARMED
        assert _code(authority, fire, 1.0) == FailureCode.NOT_ARMED  # a wrong shot disarms


def _code(authority: Authority, command: Received, now_s: float) -> int | None:
    refusal = authority.refusal(command, now_s)
    return None if refusal is None else refusal.code


def test_a_pattern_that_fits_no_telecommand_is_a_mistake() -> None:
    text = MISSION.read_text("utf-8")
    assert parse(text, "m").stations[0].may_send == ("*",)
    wrong = text.replace('name = "Weilheim"\n', 'name = "Weilheim"\nmay_send = ["ping", "reboot"]\n')
    with pytest.raises(ConfigError, match="Weilheim may_send 'reboot', which is no telecommand"):
        parse(wrong, "m")


def test_files_come_from_stations_that_may_fetch_files(tmp_path: Path) -> None:
    keys = make_keys(SCID, ["Main", "Reader"], (bytes((i,)) * 32 for i in range(12)))
    path = tmp_path / "link.keys"
    write_keys(path, keys)
    authority = Authority(STATIONS)
    with open_ring(path, End.BOARD, SCID) as board, open_ring(path, End.GROUND, SCID) as ground:
        receiver = CommandReceiver(SCID, APID, seal=CommandSeal(board),
                                   may_send_files=lambda spi: authority.may_send(family_of(spi), "file.get"))
        for station, taken in ((1, [b"pdu"]), (2, [])):
            octets = build_file_uplink(b"pdu", apid=APID, seq_count=0, scid=SCID, seal=CommandSeal(ground, station))
            assert receiver.push(octets) == []
            assert receiver.take_file_pdus() == taken
    assert "file data under SPI 33" in receiver.last_rejection
