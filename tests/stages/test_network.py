"""The interface that leads to the other nodes."""

from __future__ import annotations

import pytest

from align.errors import SetupError
from align.stages.network import interface_towards


def test_interface_is_the_one_that_the_route_takes() -> None:
    assert interface_towards("127.0.0.1") == "lo"


def test_an_address_that_nobody_knows_is_a_fault_of_the_command_line() -> None:
    with pytest.raises(SetupError, match=r"--main-address no\.such\.host\.invalid cannot be"):
        interface_towards("no.such.host.invalid")
