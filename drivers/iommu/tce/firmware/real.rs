// SPDX-License-Identifier: GPL-2.0

//! The firmware of the machine.

use crate::{
    firmware::calls::{
        Calls,
        Refused, //
    },
    ownership::Devices,
    trace, //
};
use kernel::{
    device::Device,
    io::PhysAddr,
    powerpc::{
        hvcall::{
            self,
            HvError, //
        },
        mem::TceList,
        tce::{
            self,
            DeviceGuard,
            DmaOwner,
            DriverKind,
            TableGroup, //
        },
        window::{
            Ioba,
            Liobn,
            PageShift,
            Query,
            Root,
            Tce,
            Tces,
            Window,
            WindowNumber, //
        }, //
    },
    prelude::*, //
};

impl From<HvError> for Refused {
    #[cold]
    #[inline(never)]
    fn from(e: HvError) -> Self {
        trace::refused(e.code());
        Self {
            code: e.code(),
            error: e.into(),
        }
    }
}

impl Calls for TableGroup {
    unsafe fn query(&self, dev: &Device) -> Result<Query> {
        // SAFETY: By the safety requirements.
        unsafe { TableGroup::query(self, dev) }
    }

    fn max_ram() -> PhysAddr {
        tce::max_ram()
    }

    unsafe fn set_platform(&self, dev: &Device, on: bool) -> Result {
        // SAFETY: By the safety requirements.
        let result = unsafe { TableGroup::set_platform(self, dev, on) };
        trace::owner(dev, on, &result);
        result
    }

    unsafe fn open_window(
        &self,
        dev: &Device,
        num: WindowNumber,
        root: Option<Root>,
        shift: PageShift,
        tces: Tces,
    ) -> Result<Window> {
        // SAFETY: By the safety requirements.
        let result = unsafe { TableGroup::open_window(self, dev, num, root, shift, tces) };
        trace::window_open(dev, num, shift, tces, &result);
        result
    }

    unsafe fn close_window(&self, dev: &Device, num: WindowNumber) -> Result {
        // SAFETY: By the safety requirements.
        let result = unsafe { TableGroup::close_window(self, dev, num) };
        trace::window_close(dev, num, &result);
        result
    }

    #[inline]
    fn kill(&self, run: Option<(Ioba, Tces, PageShift)>) {
        trace::kill(self, run);
        TableGroup::kill(self, run);
    }

    fn code_name(code: c_long) -> &'static str {
        HvError::name(code)
    }

    #[inline]
    fn multi_tce(&self) -> bool {
        hvcall::multi_tce()
    }

    #[inline]
    unsafe fn put(&self, liobn: Liobn, ioba: Ioba, tce: Tce) -> Result<(), Refused> {
        trace::put(liobn, ioba, tce);
        // SAFETY: By the safety requirements: what has PEs of PAPR runs below a hypervisor.
        Ok(unsafe { hvcall::put_tce(liobn, ioba, tce) }?)
    }

    #[inline]
    unsafe fn put_indirect(
        &self,
        liobn: Liobn,
        ioba: Ioba,
        list: &TceList,
        n: Tces,
    ) -> Result<(), Refused> {
        trace::put_indirect(liobn, ioba, n);
        // SAFETY: By the safety requirements: what has PEs of PAPR runs below a hypervisor.
        Ok(unsafe { hvcall::put_tce_indirect(liobn, ioba, list, n) }?)
    }

    #[inline]
    unsafe fn stuff(&self, liobn: Liobn, ioba: Ioba, n: Tces) -> Result<(), Refused> {
        trace::stuff(liobn, ioba, n);
        // SAFETY: By the safety requirements: what has PEs of PAPR runs below a hypervisor.
        Ok(unsafe { hvcall::stuff_tce(liobn, ioba, n) }?)
    }
}

impl Devices for TableGroup {
    fn for_each_device(&self, f: &mut dyn FnMut(&Device)) {
        TableGroup::for_each_device(self, f);
    }

    fn if_idle(&self, dev: &Device, f: &mut dyn FnMut()) -> bool {
        let lock = DeviceGuard::try_lock(dev);
        let idle = lock.filter(|lock| lock.driver() != DriverKind::DmaApi);
        idle.is_some_and(|_lock| {
            f();
            true
        })
    }

    unsafe fn set_dma_owner(&self, dev: &Device, owner: DmaOwner) {
        // SAFETY: By the safety requirements.
        unsafe { TableGroup::set_dma_owner(self, dev, owner) }
    }
}
