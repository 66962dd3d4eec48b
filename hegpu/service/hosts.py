"""Which hosts are this machine."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether nothing leaves this machine on the way to ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
