"""Addresses of targets, and what ~/.ssh/config makes of them."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from harness.errors import TargetFailed, UserError
from harness.target.address import Address
from harness.target.login import KNOWN_HOSTS, Login, log_in


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://host", Address("host")),
        ("ssh://Host", Address("Host")),
        ("ssh://root@192.0.2.7:2222", Address("192.0.2.7", "root", 2222)),
        ("ssh://root@[2001:db8::7]:22", Address("2001:db8::7", "root", 22)),
    ],
)
def test_an_address(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "host", "http://host", "ssh://", "ssh://host:0", "ssh://host:99999", "ssh://host:x",
     "ssh://host/path", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://-x@host"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UserError, match="is no target") as refused:
        Address.parse(text)
    assert "ssh://root@" in refused.value.remedy


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(UserError, match="has no password in it") as refused:
        Address.parse("ssh://root:hunter2@host")
    assert "hunter2" not in str(refused.value)


def test_without_a_configuration(tmp_path: Path) -> None:
    login = Login.of(Address("host"), config=tmp_path / "none")
    assert (login.host, login.port, login.user) == ("host", 22, getpass.getuser())
    assert (login.keys, login.known_hosts) == ((), KNOWN_HOSTS)
    assert login.name == "host"


def test_a_configuration_counts_and_the_address_counts_more(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "Host box\n  HostName 192.0.2.7\n  Port 2222\n  User someone\n"
        "  IdentityFile ~/key\n  UserKnownHostsFile /a /b\n"
    )
    login = Login.of(Address("box"), config=config)
    assert (login.host, login.port, login.user) == ("192.0.2.7", 2222, "someone")
    assert login.keys == (str(Path("~/key").expanduser()),)
    assert login.known_hosts == ("/a", "/b")
    assert login.name == "[192.0.2.7]:2222"
    login = Login.of(Address("box", "root", 22), config=config)
    assert (login.port, login.user) == (22, "root")


@pytest.mark.parametrize("proxy", ["ProxyJump bastion", "ProxyCommand nc %h %p"])
def test_a_proxy_is_refused(tmp_path: Path, proxy: str) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host box\n  {proxy}\n")
    with pytest.raises(UserError, match="which the lab does not follow") as refused:
        Login.of(Address("box"), config=config)
    assert "ssh -N -L" in refused.value.remedy


def test_a_host_that_has_no_address(tmp_path: Path) -> None:
    login = Login.of(Address("no-such-host.invalid"), config=tmp_path / "none")
    with pytest.raises(TargetFailed, match="cannot be reached at port 22") as failed:
        log_in(login)
    assert "is the machine up" in failed.value.remedy


def test_known_hosts_that_cannot_be_read(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_bytes(b"host ssh-rsa \xff\xfe\n")
    login = Login(Address("h"), "h", 22, "root", (), (str(known),))
    with pytest.raises(UserError, match=r"cannot read .*known_hosts"):
        log_in(login)
