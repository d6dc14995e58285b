"""Which of this machine's network interfaces leads to the other nodes."""

from __future__ import annotations

import fcntl
import socket
import struct

from align.errors import SetupError

_SIOCGIFADDR = 0x8915
_NAME_BYTES = 15
_ADDRESS = slice(20, 24)
"""Where the answer (`struct ifreq`, man 7 netdevice) holds an IPv4 address."""


def interface_towards(address: str) -> str | None:
    """Name of the interface through which this machine reaches `address`, its own included.

    gloo would take the one that the host's name resolves to, which is the loopback on many hosts.
    None where that is not one interface's first IPv4 address. Raises `SetupError` where `address`
    is unknown or no route leads to it.
    """
    try:
        family, kind, _, _, target = socket.getaddrinfo(address, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # of a datagram socket: finds the route, sends nothing
            own = probe.getsockname()[0]
    except OSError as error:
        raise SetupError(
            f"--main-address {address} cannot be reached from here ({error.strerror}); give the "
            "first node's name or address as the other nodes know it"
        ) from error
    if family != socket.AF_INET:
        return None
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if _address_of(name) == own), None)


def _address_of(interface: str) -> str | None:
    request = struct.pack("256s", interface.encode()[:_NAME_BYTES])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, request)
        except OSError:  # an interface without an address
            return None
    return socket.inet_ntoa(answer[_ADDRESS])
