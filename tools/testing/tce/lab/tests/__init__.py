# SPDX-License-Identifier: GPL-2.0
"""The tests: which scenarios there are."""
