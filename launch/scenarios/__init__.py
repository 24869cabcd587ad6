# SPDX-License-Identifier: MIT
"""Scenario files that come with kofn."""
