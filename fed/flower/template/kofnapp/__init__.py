# SPDX-License-Identifier: MIT
"""Federated learning with clients chosen by kofn: a Flower app to start from."""
