// SPDX-License-Identifier: GPL-2.0

//! The firmware of the machine.

use crate::firmware::calls::{
    Calls,
    Refused, //
};
use kernel::{
    device::Device,
    powerpc::{
        hvcall::{
            self,
            HvError, //
        },
        mem::TceList,
        tce::{
            self,
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
        Self {
            code: e.code(),
            error: e.into(),
        }
    }
}

impl Calls for TableGroup {
    fn query(&self, dev: &Device) -> Result<Query> {
        self.query(dev)
    }

    fn max_ram(&self) -> u64 {
        tce::max_ram()
    }

    fn set_platform(&self, dev: &Device, on: bool) -> Result {
        self.set_platform(dev, on)
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
        unsafe { self.open_window(dev, num, root, shift, tces) }
    }

    fn close_window(&self, dev: &Device, num: WindowNumber) -> Result {
        self.close_window(dev, num)
    }

    #[inline]
    fn kill(&self, run: Option<(Ioba, Tces, PageShift)>) {
        self.kill(run);
    }

    #[inline]
    fn multi_tce(&self) -> bool {
        hvcall::multi_tce()
    }

    #[inline]
    unsafe fn put(&self, liobn: Liobn, ioba: Ioba, tce: Tce) -> Result<(), Refused> {
        // SAFETY: By the safety requirements.
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
        // SAFETY: By the safety requirements.
        Ok(unsafe { hvcall::put_tce_indirect(liobn, ioba, list, n) }?)
    }

    #[inline]
    fn stuff(&self, liobn: Liobn, ioba: Ioba, n: Tces) -> Result<(), Refused> {
        // SAFETY: Empty TCEs take access away and give none.
        Ok(unsafe { hvcall::stuff_tce(liobn, ioba, n) }?)
    }
}
