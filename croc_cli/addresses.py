"""Which addresses are fetched from: public ones. In a private network, and on cloud machines, others give secrets away.

An address has many spellings (`169.254.169.254`, `2852039166`, `0xa9fea9fe`, `0251.0376.0251.0376`, `::ffff:a9fe:a9fe`,
a trailing dot, digits of other scripts), so a host is checked as it is read by the system, and every address that a
name stands for.
"""

import ipaddress
import socket
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

_PRIVATE_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa")
"""Ends of names that stand for machines of one's own network; clouds serve credentials at metadata.google.internal."""
_PLATFORM = ("168.63.129.16", "fd00:ec2::254", "100.100.100.200")
"""Public in form, or easily missed: the platform's own addresses on Azure, AWS and Alibaba."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddressError(ValueError):
    """An address that nothing is fetched from; the text says which, and why."""


def host_of(url: str) -> str:
    """Return the host of a URL as the system reads it: without escapes, trailing dots, letters' other forms."""
    host = unquote(urlsplit(url).hostname or "")
    return unicodedata.normalize("NFKC", host).rstrip(".").lower()


def check_public(url: str) -> None:
    """Look at a URL's host, and at all addresses that it stands for, before it is asked for.

    Raises:
        PrivateAddressError: One of them is not public. A name that this machine cannot resolve passes: behind a proxy,
            only the proxy can.
    """
    host = host_of(url)
    if any(host == name or host.endswith(f".{name}") for name in _PRIVATE_NAMES):
        raise PrivateAddressError(f"{host} is a private address, from which nothing is fetched")
    if (address := literal_address(host)) is not None:
        check_address(address)
        return
    for address in addresses_of(host):
        check_address(address)


def is_private(url: str) -> bool:
    """Tell whether a URL leads to an address that is not public."""
    try:
        check_public(url)
    except PrivateAddressError:
        return True
    return False


def literal_address(host: str) -> str | None:
    """Return the address that a host spells out, in whatever base and number of parts; None for a name."""
    bare = host.strip("[]").split("%")[0]
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(bare)) if bare and bare[0].isdigit() else None
    except (OSError, ValueError):  # ValueError: a null character
        return None


def addresses_of(host: str) -> Iterator[str]:
    """Yield the addresses that a name stands for; none where it cannot be resolved."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return
    for *_, address in found:
        yield str(address[0])


def check_address(address: str) -> None:
    """Raise PrivateAddressError unless an address is public: by itself, and what an IPv6 address wraps."""
    ip = ipaddress.ip_address(address.split("%")[0])
    inside = [ip]
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ()))
        inside += [found for found in wrapped if found is not None]
        if ip in _NAT64 or int(ip) >> 32 == 0:  # the last four bytes, in the old "compatible" form too
            inside.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    for found in inside:
        if found.is_link_local:
            raise PrivateAddressError(f"{address} is a link-local address, from which nothing is fetched")
        if not found.is_global or found.is_multicast or str(found) in _PLATFORM:
            if isinstance(found, ipaddress.IPv6Address) and found is ip and len(inside) > 1:
                continue  # a wrapping address is as public as what it wraps
            raise PrivateAddressError(f"{address} is a private address, from which nothing is fetched")
