# SPDX-License-Identifier: MIT
"""Devices without hardware: each answers on the far end of a real line and moves as it is told.

They speak the protocol of the real device, byte for byte, and integrate how it would move: no
slip, no collision, no delay of a motor. A driver cannot tell them from a device; people can, by
`kofn fake` and by the kind of a host in a scenario.
"""
