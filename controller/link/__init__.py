# SPDX-License-Identifier: MIT
"""The wire: messages, topics, transports, brokers."""
