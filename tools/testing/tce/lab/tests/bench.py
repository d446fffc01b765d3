# SPDX-License-Identifier: GPL-2.0
"""What mapping costs has not grown."""

from ..bench import guard

SCENARIOS = list(guard.scenarios())
