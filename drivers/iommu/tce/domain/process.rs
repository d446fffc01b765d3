// SPDX-License-Identifier: GPL-2.0

//! The domain of a process: a device uses the addresses of the process with bit 59 set.
//!
//! TCE hardware has no PASIDs in its lookup, but two translations for each PE, chosen by bit 59 of
//! the bus address. A process gets the one with the bit set, for as long as a device is bound to
//! it, and the DMA API keeps the other one. What is in the tables of the process is the business of
//! the core's abstraction, which pins memory and maps it before a device uses it.

use crate::{
    domain::{
        blocked::Blocked,
        paging::{
            ioba_range,
            iova_range, //
        },
        Tce, //
    },
    layout::{
        IobaRange,
        Layout, //
    },
    space::Space, //
};
use kernel::{
    io::PhysAddr,
    iommu::{
        self,
        EndpointCtx,
        Iova,
        IovaRange,
        Pasid,
        SvaWindow, //
    },
    mm::MmWithUser,
    powerpc::window::{
        Ioba,
        Tce as Entry,
        WindowNumber, //
    },
    prelude::*,
    sync::Arc,
    task::Pid, //
};

/// The bus addresses that processes can have of a PE, if it has such a window.
///
/// A window that begins elsewhere would not do: bit 59 chooses it, whatever firmware says.
pub(crate) fn addresses(layout: &Layout) -> Option<IovaRange> {
    const BASE: Ioba = Ioba::new(1 << 59);

    let high = layout.window(WindowNumber::High)?;
    let range = IobaRange {
        first: high.base,
        last: high.last(),
    };
    iova_range(range).filter(|_| high.base == BASE)
}

/// The tables of a process.
pub(crate) struct Window {
    space: Arc<Space>,
    iovas: IovaRange,
}

impl Window {
    /// Makes tables for the windows of a PE. May sleep.
    pub(crate) fn new(layout: Layout) -> Result<Self> {
        Ok(Self {
            iovas: addresses(&layout).ok_or(EOPNOTSUPP)?,
            space: Space::for_process(layout)?,
        })
    }

    /// What a PE translates through.
    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }
}

// SAFETY: A TCE is present only between `set` and `clear`, and `withdraw` returns when no PE uses
// the cleared ones any more. `protect` replaces a TCE as a whole, and `publish` makes PEs forget
// the old one.
unsafe impl SvaWindow for Window {
    fn iovas(&self) -> IovaRange {
        self.iovas
    }

    fn prepare(&self, range: IovaRange) -> Result {
        self.space
            .reserve(ioba_range(range), GFP_KERNEL_ACCOUNT)
            .map_err(|e| if e == EBUSY { EAGAIN } else { e })
    }

    fn set(&self, range: IovaRange, paddr: PhysAddr, write: bool) -> Result {
        let first = Entry::from_parts(paddr, true, write);
        // Not allocated here where `trim` was quicker than who prepared: it would be memory from
        // the reserves, which a process could ask for at will and is not charged for.
        self.space.map_reserved(ioba_range(range), first)
    }

    fn get(&self, iova: Iova) -> Option<PhysAddr> {
        self.space.translate(Ioba::new(iova.get()))
    }

    fn protect(&self, range: IovaRange, write: bool) -> Result {
        self.space.protect(ioba_range(range), write)
    }

    fn publish(&self, range: IovaRange) -> Result {
        self.space.publish(ioba_range(range))
    }

    fn clear(&self, range: IovaRange) {
        self.space.unmap_all(ioba_range(range));
    }

    fn withdraw(&self, range: IovaRange) {
        self.space.withdraw(ioba_range(range));
    }

    fn trim(&self, range: IovaRange) {
        // SAFETY: Calls that change the table come one after the other, and this one comes when
        // what was cleared has been withdrawn.
        unsafe { self.space.trim(ioba_range(range)) };
    }

    fn is_connected(&self) -> bool {
        self.space.is_connected()
    }
}

/// See the module documentation.
pub(crate) struct Process {
    window: Arc<Window>,
    pid: Pid,
}

// SAFETY: The PE translates through the tables of the process only while the PASID is set. What is
// in the tables is pinned and taken out by those who use `window`.
unsafe impl iommu::SvaOps for Process {
    type Driver = Tce;

    fn new(ctx: &EndpointCtx<'_, Tce>, _mm: &MmWithUser) -> Result<impl PinInit<Self, Error>> {
        let window = Window::new(ctx.endpoint().pe().layout())?;
        Ok(Ok(Self {
            window: Arc::new(window, GFP_KERNEL)?,
            pid: kernel::current!().group_leader().pid(),
        }))
    }

    fn set_pasid(self: Pin<&Self>, ctx: &EndpointCtx<'_, Tce>, _pasid: Pasid) -> Result {
        // That no mapping is there now does not mean that none will be.
        if ctx.dma_mask() >= self.window.iovas.first() {
            return Err(EADDRINUSE);
        }
        // A device that was reset comes again, on behalf of somebody else.
        ctx.endpoint().lend(self.window.space(), self.pid)
    }

    fn window(self: Pin<&Self>) -> Option<Arc<dyn SvaWindow>> {
        Some(self.window.clone())
    }
}

// SAFETY: The PE translates through the tables of the process no more. Where OPAL refuses to close
// the window, what is taken out of the tables is still withdrawn from the PE.
unsafe impl iommu::BlockPasid for Blocked {
    fn remove_pasid(ctx: &EndpointCtx<'_, Tce>, _pasid: Pasid) {
        ctx.endpoint().reclaim();
    }
}
