// SPDX-License-Identifier: GPL-2.0

//! What the IOMMU driver of [`mock`](super::mock) has for address spaces, and address spaces for
//! tests.

use super::{
    mock::*,
    page_request::{
        Request,
        Response, //
    },
    *, //
};
use crate::{
    bindings,
    error::to_result,
    mm::{
        notifier::{
            Notifier,
            Release, //
        },
        Mm,
        MmWithUser, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::Relaxed,
        Arc, //
    }, //
};
use core::ptr::{
    self,
    NonNull, //
};

// The IOMMU.

// SAFETY: The devices do not exist.
unsafe impl BlockPasid for NoAccess {
    fn remove_pasid(ctx: &EndpointCtx<'_, Mock>, pasid: Pasid) {
        let log = &ctx.instance().data().log;
        let endpoint = ctx.endpoint();
        let mut table = endpoint.table.lock();

        // Not so for a device that joined the group later.
        if *table & (1 << pasid.get()) != 0 {
            *table &= !(1 << pasid.get());
            log.pasids.add(-1, Relaxed);
            log.removed_at.store(log.tick(), Relaxed);
        }
    }
}

/// The domain of an address space.
#[pin_data]
pub(super) struct Space {
    log: Arc<Log>,
    #[pin]
    exit: Notifier<Cut>,
    _count: Count,
}

struct Cut(Arc<Log>);

impl Release for Cut {
    fn release(self: Pin<&Self>, _mm: &Mm) {
        self.0.cut_at.store(self.0.tick(), Relaxed);
    }
}

// SAFETY: The devices do not exist.
unsafe impl SvaOps for Space {
    type Driver = Mock;

    fn new(ctx: &EndpointCtx<'_, Mock>, mm: &MmWithUser) -> Result<impl PinInit<Self, Error>> {
        let log = ctx.instance().data().log.clone();

        Log::fail(&log.fail_new)?;
        Ok(try_pin_init!(Self {
            exit <- Notifier::new(mm, Ok(Cut(log.clone()))),
            _count: Count::new(&log, |log| &log.domains),
            log,
        }))
    }

    fn set_pasid(self: Pin<&Self>, ctx: &EndpointCtx<'_, Mock>, pasid: Pasid) -> Result {
        Log::fail(&self.log.fail_set)?;

        let endpoint = ctx.endpoint();
        let mut table = endpoint.table.lock();
        if *table & (1 << pasid.get()) != 0 {
            self.log.wrong.add(1, Relaxed);
        }
        *table |= 1 << pasid.get();
        self.log.pasids.add(1, Relaxed);
        Ok(())
    }
}

impl PageRequests for Mock {
    fn respond(ctx: &EndpointCtx<'_, Self>, request: &Request, response: Response) {
        let log = &ctx.instance().data().log;
        let answer = (*request, response);

        if log.answers.lock().push(answer, GFP_KERNEL).is_err() {
            log.wrong.add(1, Relaxed);
        }
    }
}

pub(super) static BLOCKED: StaticDomain<NoAccess> = StaticDomain::with_pasids();
pub(super) static OPS: Ops<Mock> = Ops::new()
    .blocked(&BLOCKED)
    .identity(&DIRECT)
    .sva::<Space>();
/// A driver that has forgotten the blocked domain for PASIDs.
pub(super) static HALF_OPS: Ops<Mock> = Ops::new()
    .blocked(&PLAIN_BLOCKED)
    .identity(&DIRECT)
    .sva::<Space>();
/// A driver whose devices may ask for pages.
pub(super) static PAGE_OPS: Ops<Mock> = Ops::new()
    .blocked(&BLOCKED)
    .identity(&DIRECT)
    .sva::<Space>()
    .page_requests();

pub(super) fn new_bed(devices: &[(c_int, Option<u32>)]) -> Result<Bed> {
    Bed::with(&OPS, 64, devices)
}

// The address spaces.

/// Where [`map_area`] puts areas, and how large they are: pages of all sizes fit.
pub(super) const AREA: usize = 0x100_0000;
pub(super) const AREA_SIZE: usize = 0x1_0000;
/// `PROT_READ` and `PROT_WRITE`.
pub(super) const READ: usize = 1;
pub(super) const WRITE: usize = 2;

pub(super) fn new_mm() -> Result<ARef<MmWithUser>> {
    // SAFETY: No precondition.
    let mm = NonNull::new(unsafe { bindings::mm_alloc() }).ok_or(ENOMEM)?;

    // SAFETY: The new address space has one user, which is ours.
    Ok(unsafe { ARef::from_raw(mm.cast()) })
}

/// Runs `f` in the address space. The test is a kernel thread and has none.
pub(super) fn with_mm<T>(mm: &MmWithUser, f: impl FnOnce() -> T) -> T {
    // SAFETY: This is a kernel thread without an address space, and `mm` has a user.
    unsafe { bindings::kthread_use_mm(mm.as_raw()) };
    let result = f();
    // SAFETY: As above; this is what it uses.
    unsafe { bindings::kthread_unuse_mm(mm.as_raw()) };
    result
}

/// Gives the address space memory at `at`, of which no page is there yet.
pub(super) fn map_area(mm: &MmWithUser, at: usize, prot: usize) -> Result {
    // `MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS`, the same on all architectures.
    let flags = 0x32;

    // As `execve()` does; powerpc looks at it.
    // SAFETY: No task uses the address space, which is all ours.
    unsafe { (*mm.as_raw()).__bindgen_anon_1.task_size = 1 << 32 };
    // SAFETY: The task has the address space.
    let got = with_mm(mm, || unsafe {
        bindings::vm_mmap(ptr::null_mut(), at, AREA_SIZE, prot, flags, 0)
    });
    if got == at {
        return Ok(());
    }
    // CAST: An error fits.
    to_result(got as c_int)
}
