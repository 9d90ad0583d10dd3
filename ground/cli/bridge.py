"""`ground bridge`: own the port and archive as `ground watch` does, and connect other ground software to it."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack

from flightsw.errors import LinkError
from ground.bridge import Endpoint, Peer, TcpPackets, UdpFrames
from ground.cli.options import EXIT_COMPLETED, EXIT_TEXT, Commands, add_link
from ground.session import Session

_LOCAL = "127.0.0.1"


def add_command(commands: Commands) -> None:
    """Add `ground bridge`."""
    parser = commands.add_parser(
        "bridge", help="connect other ground software: Yamcs by UDP frames, COSMOS by TCP packets", epilog=EXIT_TEXT,
        description="Receive and archive telemetry as `ground watch` does, and hand it on; put on the line what comes "
        "back. Frames and packets are opened, checked and sealed here. `ground send` works beside it. docs/bridge.md "
        "has configurations of Yamcs and COSMOS. Ctrl-C ends it.")
    add_link(parser, defaults=True, port_required=True)
    parser.add_argument("--udp", type=endpoint, metavar="[HOST:]PORT",
                        help="send every TM frame there, one a datagram")
    parser.add_argument("--udp-listen", type=endpoint, default=Endpoint(_LOCAL, 10018), metavar="[HOST:]PORT",
                        help="take TC frames or CLTUs there, one a datagram (127.0.0.1:10018)")
    parser.add_argument("--tcp-listen", type=endpoint, metavar="[HOST:]PORT",
                        help="give every packet to clients there, and take telecommand packets")
    parser.set_defaults(run=_bridge)


def endpoint(text: str) -> Endpoint:
    """Read a port, or a host and a port."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, or a host and a port with a colon between")
    return Endpoint(host or _LOCAL, int(port))


def _bridge(options: argparse.Namespace) -> int:
    """Serve line and sockets until interrupted."""
    if options.udp is None and options.tcp_listen is None:
        raise LinkError("nobody to connect: give --udp or --tcp-listen")
    if options.udp is not None and options.framing == "cobs":
        raise LinkError("framing 'cobs' has no frames to send with --udp; use --tcp-listen")
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopped.append(received))
    with ExitStack() as stack:
        session = stack.enter_context(Session(options))
        peers: list[Peer] = []
        frames = packets = None
        if options.udp is not None:
            frames = UdpFrames(session.station, options.scid, options.udp, options.udp_listen)
            stack.callback(frames.close)
            peers.append(frames)
        if options.tcp_listen is not None:
            packets = TcpPackets(session.station, options.tcp_listen)
            stack.callback(packets.close)
            peers.append(packets)
        session.station.hand_on(frame=frames.send if frames else None, packet=packets.send if packets else None)
        said = ("", "")
        while not stopped:
            now_s = session.turn(*(descriptor for peer in peers for descriptor in peer.descriptors()))
            for peer in peers:
                peer.serve(now_s)
            refused = "; ".join(f"{peer.refused} refused, last: {peer.last_refusal}" for peer in peers if peer.refused)
            now = (session.status(now_s).trouble, refused)
            if now != said:
                said = now
                print(f"ground bridge: {'; '.join(text for text in now if text) or 'recovered'}", file=sys.stderr,
                      flush=True)
    return EXIT_COMPLETED
