// SPDX-License-Identifier: GPL-2.0

//! Tests of page requests, through the real IOMMU core and the page fault handler of the kernel.
//!
//! The devices of [`mock`](super::mock) do not exist, so the tests speak for them.

#[macros::kunit_tests(rust_iommu_page_request)]
mod tests {
    use super::super::{
        mock::*,
        page_request::*,
        sva::Bond,
        sva_mock::*,
        EndpointCtx,
        Iova,
        Pasid, //
    };
    use crate::{
        bindings,
        mm::MmWithUser,
        prelude::*,
        sync::{
            aref::ARef,
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc, //
        },
        time::{
            delay::fsleep,
            Delta, //
        }, //
    };

    /// Nothing is mapped here.
    const HOLE: usize = AREA + AREA_SIZE;

    fn asking_bed() -> Result<Bed> {
        Bed::with(&PAGE_OPS, 64, &[(0, Some(5)), (1, Some(5))])
    }

    /// An address space with an area.
    fn mm_with_area(prot: usize) -> Result<ARef<MmWithUser>> {
        let mm = new_mm()?;
        map_area(&mm, AREA, prot)?;
        Ok(mm)
    }

    /// Lets a device ask for pages.
    fn accept(bed: &Bed, index: usize) -> Result<(Arc<Queue>, Arc<Port>)> {
        let queue = Queue::new(c"mock")?;
        // SAFETY: The IOMMU driver has claimed the device, and nobody takes it away from it now.
        let ctx = unsafe { EndpointCtx::<Mock>::new(bed.dev(index)?.as_raw()) };
        let port = ctx.accept_page_requests(queue.clone())?;
        Ok((queue, port))
    }

    type Client = (
        Bed,
        (Arc<Queue>, Arc<Port>),
        ARef<MmWithUser>,
        Bond<'static>,
    );

    /// A device that asks for pages, bound to an address space with an area.
    fn bound(prot: usize) -> Result<Client> {
        let bed = asking_bed()?;
        let port = accept(&bed, 0)?;
        let mm = mm_with_area(prot)?;
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        Ok((bed, port, mm, bond))
    }

    fn request(pasid: Pasid, group: u32, addr: usize, write: bool, last: bool) -> Request {
        let access = match write {
            true => AccessFlag::Read | AccessFlag::Write,
            false => AccessFlag::Read.into(),
        };
        Request {
            pasid,
            group: Group::new(group),
            addr: Iova::new(addr as u64),
            access,
            last,
            private: [addr as u64, u64::from(group)],
        }
    }

    /// Waits for the answer to a request, which is the only one there is.
    fn answer(bed: &Bed, request: Request) -> Result<Response> {
        for _ in 0..500 {
            let found = bed.log.answers.lock().pop();
            if let Some((answered, response)) = found {
                check!(bed.log.answers.lock().is_empty());
                check!(answered == request);
                return Ok(response);
            }
            fsleep(Delta::from_millis(10));
        }
        Err(ETIMEDOUT)
    }

    /// Reports the last request of a group and returns the answer.
    fn ask(bed: &Bed, port: &Port, request: Request) -> Result<Response> {
        port.report(request)?;
        answer(bed, request)
    }

    /// Says whether there is a page at an address.
    fn is_present(mm: &MmWithUser, addr: usize) -> bool {
        let mut byte = 0_u8;
        let user = core::ptr::with_exposed_provenance(addr);
        // SAFETY: The byte may be written, and the task has the address space.
        let ret = with_mm(mm, || unsafe {
            bindings::copy_from_user_nofault((&raw mut byte).cast(), user, 1)
        });
        ret == 0
    }

    #[test]
    fn page_is_brought_in() -> Result {
        let (bed, (_, port), mm, bond) = bound(READ | WRITE)?;

        for (group, write) in [(1, true), (2, false)] {
            let addr = AREA + AREA_SIZE * group as usize * 2;
            map_area(&mm, addr, READ | WRITE)?;
            check!(!is_present(&mm, addr));
            let wanted = request(bond.pasid(), group, addr, write, true);
            check!(ask(&bed, &port, wanted)? == Response::Success);
            check!(is_present(&mm, addr));
        }
        drop(bond);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn what_the_process_may_not_is_invalid() -> Result {
        let (bed, (_, port), mm, bond) = bound(READ)?;
        let pasid = bond.pasid();

        let hole = request(pasid, 1, HOLE, false, true);
        check!(ask(&bed, &port, hole)? == Response::Invalid);
        let write = request(pasid, 1, AREA, true, true);
        check!(ask(&bed, &port, write)? == Response::Invalid);
        let mut fetch = request(pasid, 1, AREA, false, true);
        fetch.access = AccessFlag::Execute.into();
        check!(ask(&bed, &port, fetch)? == Response::Invalid);
        check!(!is_present(&mm, AREA));
        let read = request(pasid, 1, AREA, false, true);
        check!(ask(&bed, &port, read)? == Response::Success);
        Ok(())
    }

    #[test]
    fn group_has_one_answer() -> Result {
        let (bed, (_, port), mm, bond) = bound(READ | WRITE)?;
        let ask_after = |first, group, other| {
            port.report(request(bond.pasid(), group, first, true, false))?;
            ask(&bed, &port, request(bond.pasid(), other, AREA, true, true))
        };

        // One that cannot be had spoils the group, but no other group.
        check!(ask_after(HOLE, 1, 2)? == Response::Success);
        check!(ask_after(HOLE, 3, 3)? == Response::Invalid);
        check!(ask_after(AREA + AREA_SIZE - 1, 4, 4)? == Response::Success);
        check!(is_present(&mm, AREA + AREA_SIZE - 1));
        Ok(())
    }

    #[test]
    fn incomplete_groups_can_be_discarded() -> Result {
        let (bed, (queue, port), _mm, bond) = bound(READ)?;

        port.report(request(bond.pasid(), 1, HOLE, false, false))?;
        queue.discard_partial();
        let last = request(bond.pasid(), 1, AREA, false, true);
        check!(ask(&bed, &port, last)? == Response::Success);
        Ok(())
    }

    #[test]
    fn pasid_that_is_not_set_is_refused() -> Result {
        let bed = asking_bed()?;
        let (_, port) = accept(&bed, 0)?;
        let mm = mm_with_area(READ)?;
        let refused = |pasid: Pasid| -> Result<bool> {
            let part = request(pasid, 1, AREA, false, false);
            let last = request(pasid, 1, AREA, false, true);

            // Only the last one has an answer.
            let part = port.report(part) == Err(ENOENT) && bed.log.answers.lock().is_empty();
            let last_refused = port.report(last) == Err(ENOENT);
            Ok(part && last_refused && answer(&bed, last)? == Response::Invalid)
        };

        // Before, after, on another device, and when binding failed.
        check!(refused(Pasid::new(1).ok_or(EINVAL)?)?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        let pasid = bond.pasid();
        drop(bond);
        check!(refused(pasid)?);
        let other = Bond::bind(bed.dev(1)?, &mm)?;
        check!(other.pasid() == pasid);
        check!(refused(pasid)?);
        drop(other);
        bed.log.fail_set.store(EIO.to_errno(), Relaxed);
        check!(Bond::bind(bed.dev(0)?, &mm).is_err());
        check!(refused(pasid)?);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn unbinding_waits_for_the_answer() -> Result {
        let (bed, (_, port), mm, bond) = bound(READ)?;
        let wanted = request(bond.pasid(), 1, AREA, false, true);
        // SAFETY: The address space is valid.
        let lock = unsafe { &raw mut (*mm.as_raw()).__bindgen_anon_1.mmap_lock };

        // SAFETY: Nobody holds the lock.
        unsafe { bindings::down_write(lock) };
        let reported = port.report(wanted);
        // The worker has to wait for the lock.
        let unbound = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let unbind = {
            let unbound = unbound.clone();
            spawn(move || {
                drop(bond);
                unbound.store(true, Relaxed);
            })?
        };
        fsleep(Delta::from_millis(100));
        let (early, removed_at) = (unbound.load(Relaxed), bed.log.removed_at.load(Relaxed));
        // SAFETY: It was taken above.
        unsafe { bindings::up_write(lock) };
        unbind.wait_for_completion();
        reported?;
        check!(!early);
        // The device is stopped first, so that no more requests come.
        check!(removed_at != 0);
        check!(answer(&bed, wanted)? == Response::Success);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn requests_race_unbinding() -> Result {
        let bed = asking_bed()?;
        let (_, port) = accept(&bed, 0)?;
        let mm = mm_with_area(READ)?;

        for _ in 0..100 {
            let bond = Bond::bind(bed.dev(0)?, &mm)?;
            let (wanted, port) = (request(bond.pasid(), 1, AREA, false, true), port.clone());
            let reported = Arc::new(Atomic::new(0_i32), GFP_KERNEL)?;
            let count = reported.clone();
            let device = spawn(move || loop {
                count.add(1, Relaxed);
                if port.report(wanted) == Err(ENOENT) {
                    break;
                }
            })?;
            while reported.load(Relaxed) < 5 {
                fsleep(Delta::from_micros(50));
            }
            drop(bond);
            // No worker has the bond in its hands any more, and each request was answered.
            device.wait_for_completion();
            // Forgotten each time: a fast machine makes more than one allocation holds.
            let mut answers = bed.log.answers.lock();
            check!(i32::try_from(answers.len())? == reported.load(Relaxed));
            answers.clear();
        }
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn process_that_has_exited_is_invalid() -> Result {
        let (bed, (_, port), mm, bond) = bound(READ)?;

        drop(mm);
        let wanted = request(bond.pasid(), 1, AREA, false, true);
        check!(ask(&bed, &port, wanted)? == Response::Invalid);
        Ok(())
    }

    #[test]
    fn port_outlives_the_device() -> Result {
        let (mut bed, (_, port), _mm, bond) = bound(READ)?;
        let wanted = request(bond.pasid(), 1, AREA, false, true);

        // A part of a group stays behind.
        port.report(request(bond.pasid(), 1, AREA, false, false))?;
        drop(bond);
        bed.unregister();
        check!(port.report(wanted) == Err(ENODEV));
        check!(bed.log.answers.lock().is_empty());
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn device_has_one_port_if_the_driver_answers() -> Result {
        let bed = asking_bed()?;
        let _port = accept(&bed, 0)?;
        check!(matches!(accept(&bed, 0), Err(EBUSY)));
        drop(bed);

        let bed = new_bed(&[(0, Some(5))])?;
        check!(matches!(accept(&bed, 0), Err(ENODEV)));
        Ok(())
    }
}
