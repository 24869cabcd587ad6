# SPDX-License-Identifier: MIT
"""Service units of systemd for the two roles of a federation."""
