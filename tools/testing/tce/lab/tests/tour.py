# SPDX-License-Identifier: GPL-2.0
"""The tour: everything `make run` shows, in one boot."""

from .. import steps
from ..scenario import Scenario
from . import sva

def tour(flavour, machine, rounds=steps.vfio_rounds, **more):
    all_steps = (steps.driver_loaded, steps.drivers_bound, steps.groups, steps.windows, steps.nvme_data,
                 steps.narrow_device, rounds, steps.vfio_dma, steps.sysfs_types, steps.testdev_oracle,
                 steps.mapping_cost, sva.copied, steps.dmesg_clean)
    return Scenario("tour", flavour, machine, ("nvme", "e100", "testdev", "edu"), all_steps, **more)


SCENARIOS = [tour("modern-64k", "pseries"), tour("modern-64k", "powernv10"),
             *(tour("modern-debug-64k", machine, steps.vfio_few_rounds) for machine in ("pseries", "powernv10")),
             *(tour("modern-64k", machine, only_all=True) for machine in ("powernv9", "powernv11")),
             *(tour("modern-4k", machine, only_all=True) for machine in ("pseries", "powernv9", "powernv10", "powernv11"))]
