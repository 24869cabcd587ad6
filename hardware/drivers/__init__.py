# SPDX-License-Identifier: MIT
"""Drivers of robots; each is registered in the entry-point group `kofn.drivers`."""
