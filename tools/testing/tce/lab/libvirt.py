# SPDX-License-Identifier: GPL-2.0
"""The guest of libvirt that is in the guide, by libvirt's own rules."""

import re
import textwrap

from . import debian
from .say import Fail

_GUIDE = "Documentation/admin-guide/tce-iommu.rst"
_SCHEMA = "usr/share/libvirt/schemas/domain.rng"


def check(env):
    """Fails if libvirt would not take it for a domain."""
    found = re.search(r"^  <domain .*?^  </domain>\n", (env.top / _GUIDE).read_text(encoding="utf-8"), re.M | re.S)
    if not found:
        raise Fail(f"no <domain> in {_GUIDE}")
    tree = debian.tools(env, "libvirt-tools", "libvirt's schemas", ("libvirt-common", "libxml2-utils"))
    debian.run_tool(tree, "xmllint", "--noout", "--relaxng", tree / _SCHEMA, "-", text=textwrap.dedent(found[0]))
    return f"{found[0].count(chr(10))} lines"
