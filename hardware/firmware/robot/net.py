# SPDX-License-Identifier: MIT
"""Wi-Fi, on boards that have it; nothing to do where the port has none (the bench)."""

import time


def up(wifi, patience_ms=20000):
    """Join the network; return the address, or None where there is no `network` module."""
    try:
        import network
    except ImportError:
        return None
    station = network.WLAN(network.STA_IF)
    station.active(True)
    if not station.isconnected():
        station.connect(wifi["ssid"], wifi["password"])
    start = time.ticks_ms()
    while not station.isconnected():
        if time.ticks_diff(time.ticks_ms(), start) > patience_ms:
            return None
        time.sleep_ms(100)
    return station.ifconfig()[0]
