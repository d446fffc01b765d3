// SPDX-License-Identifier: GPL-2.0

//! Tests of shared virtual addressing, through the real IOMMU core.
//!
//! The IOMMU driver of [`mock`](super::mock) has PASIDs here, and address spaces are made and ended
//! by the tests, some of them as those of processes.

#[macros::kunit_tests(rust_iommu_sva)]
mod tests {
    use super::super::{
        mock::*,
        sva::*,
        sva_mock::*, //
    };
    use crate::{
        bindings,
        device::Device,
        error::from_err_ptr,
        mm::{
            notifier::{
                Notifier,
                Release, //
            },
            Mm,
            MmWithUser, //
        },
        new_mutex,
        prelude::*,
        str::CString,
        sync::{
            aref::ARef,
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc,
            Completion,
            Mutex, //
        },
        time::{
            delay::{
                fsleep,
                udelay, //
            },
            Delta, //
        },
        types::ForeignOwnable, //
    };
    use core::ptr;

    // Processes.

    /// A process, which waits until it may exit.
    #[pin_data]
    struct Process {
        task: Atomic<usize>,
        #[pin]
        mm: Mutex<Option<ARef<MmWithUser>>>,
        #[pin]
        begun: Completion,
        #[pin]
        exit: Completion,
    }

    impl Process {
        /// Makes a process with a copy of `mm`, or one that shares it.
        fn fork(mm: &MmWithUser, share: bool) -> Result<Arc<Self>> {
            let this = Arc::pin_init(
                pin_init!(Self {
                    task: Atomic::new(0),
                    mm <- new_mutex!(None),
                    begun <- Completion::new(),
                    exit <- Completion::new(),
                }),
                GFP_KERNEL,
            )?;
            let arg = this.clone().into_foreign();
            let mut args = bindings::kernel_clone_args {
                flags: u64::from(if share { bindings::CLONE_VM } else { 0 }),
                // Nobody has to wait for the child: a kernel thread ignores the signal.
                exit_signal: bindings::SIGCHLD as c_int,
                fn_: Some(Self::main),
                fn_arg: arg.cast(),
                ..pin_init::zeroed()
            };
            // SAFETY: The arguments are valid, and `main` does not return.
            let pid = with_mm(mm, || unsafe { bindings::kernel_clone(&mut args) });
            if pid < 0 {
                // SAFETY: There is no child that would take it.
                drop(unsafe { Arc::<Self>::from_foreign(arg) });
                // CAST: An error fits.
                return Err(Error::from_errno(pid as c_int));
            }
            this.begun.wait_for_completion();
            Ok(this)
        }

        /// What the process does.
        ///
        /// # Safety
        ///
        /// For `fork`: `arg` must be a reference to a process, and this must be its task.
        unsafe extern "C" fn main(arg: *mut c_void) -> c_int {
            // SAFETY: By the safety requirements.
            let this = unsafe { Arc::<Self>::from_foreign(arg.cast()) };
            let current = crate::current!();

            this.task.store(current.as_ptr().addr(), Relaxed);
            *this.mm.lock() = current.mm().map(Into::into);
            this.begun.complete_all();
            this.exit.wait_for_completion();
            drop(this);
            // SAFETY: No lock is held, and there is no user code to return to.
            unsafe { bindings::do_exit(0) }
        }

        /// Its address space.
        fn mm(&self) -> Result<ARef<MmWithUser>> {
            self.mm.lock().take().ok_or(ESRCH)
        }
    }

    /// What the user of a device saw.
    #[pin_data]
    struct Seen {
        calls: Atomic<i32>,
        pasid: Atomic<u32>,
        called_at: Atomic<i32>,
        /// The task that called `mm_exit`.
        task: Atomic<usize>,
        dropped_at: Atomic<i32>,
        running: Atomic<i32>,
        /// The data was used and dropped at the same time, or used afterwards.
        wrong: Atomic<i32>,
        #[pin]
        begun: Completion,
        #[pin]
        go: Completion,
    }

    impl Seen {
        fn new() -> Result<Arc<Self>> {
            Arc::pin_init(
                pin_init!(Self {
                    calls: Atomic::new(0),
                    pasid: Atomic::new(0),
                    called_at: Atomic::new(0),
                    task: Atomic::new(0),
                    dropped_at: Atomic::new(0),
                    running: Atomic::new(0),
                    wrong: Atomic::new(0),
                    begun <- Completion::new(),
                    go <- Completion::new(),
                }),
                GFP_KERNEL,
            )
        }
    }

    /// The data of a context.
    struct User {
        log: Arc<Log>,
        seen: Arc<Seen>,
        /// Whether `mm_exit` sleeps until it may go on.
        sleeps: bool,
    }

    impl User {
        fn new(bed: &Bed, seen: &Arc<Seen>) -> Self {
            Self {
                log: bed.log.clone(),
                seen: seen.clone(),
                sleeps: false,
            }
        }
    }

    impl MmExit for User {
        fn mm_exit(self: Pin<&Self>, _dev: &Device, pasid: Pasid) {
            let seen = &self.seen;

            seen.running.add(1, Relaxed);
            if seen.dropped_at.load(Relaxed) != 0 {
                seen.wrong.add(1, Relaxed);
            }
            seen.calls.add(1, Relaxed);
            seen.pasid.store(pasid.get(), Relaxed);
            seen.called_at.store(self.log.tick(), Relaxed);
            seen.task.store(crate::current!().as_ptr().addr(), Relaxed);
            seen.begun.complete_all();
            if self.sleeps {
                seen.go.wait_for_completion();
            }
            seen.running.add(-1, Relaxed);
        }
    }

    impl Drop for User {
        fn drop(&mut self) {
            if self.seen.running.load(Relaxed) != 0 {
                self.seen.wrong.add(1, Relaxed);
            }
            self.seen.dropped_at.store(self.log.tick(), Relaxed);
        }
    }

    /// Another kind of data, with operations of its own.
    struct Other(Arc<Seen>);

    impl MmExit for Other {
        fn mm_exit(self: Pin<&Self>, _dev: &Device, _pasid: Pasid) {
            self.0.calls.add(100, Relaxed);
        }
    }

    // Bonds.

    #[test]
    fn same_mm_and_device_twice_is_one_handle() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let mm = new_mm()?;
        let first = Bond::bind(bed.dev(0)?, &mm)?;
        let second = Bond::bind(bed.dev(0)?, &mm)?;

        check!(first.as_raw() == second.as_raw());
        check!(first.pasid() == second.pasid());
        check!(bed.log.pasids.load(Relaxed) == 1);
        // Each bond must be unbound.
        drop(first);
        check!(bed.log.pasids.load(Relaxed) == 1);
        drop(second);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn one_mm_on_two_devices_has_one_pasid() -> Result {
        let bed = new_bed(&[(0, Some(5)), (1, Some(5))])?;
        let mm = new_mm()?;
        let first = Bond::bind(bed.dev(0)?, &mm)?;
        let second = Bond::bind(bed.dev(1)?, &mm)?;

        check!(first.as_raw() != second.as_raw());
        check!(first.pasid() == second.pasid());
        check!(bed.log.pasids.load(Relaxed) == 2);
        // They share the domain.
        check!(bed.log.domains.load(Relaxed) == 1);
        drop(first);
        check!(bed.log.pasids.load(Relaxed) == 1);
        drop(second);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn two_mms_on_one_device_have_two_pasids() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let (mm1, mm2) = (new_mm()?, new_mm()?);
        let first = Bond::bind(bed.dev(0)?, &mm1)?;
        let second = Bond::bind(bed.dev(0)?, &mm2)?;

        check!(first.pasid() != second.pasid());
        check!(first.as_raw() != second.as_raw());
        check!(bed.log.domains.load(Relaxed) == 2);
        drop((first, second));
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn binding_again_after_unbinding_works() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let mm = new_mm()?;
        let pasid = Bond::bind(bed.dev(0)?, &mm)?.pasid();

        check!(bed.log.is_idle());
        check!(Bond::bind(bed.dev(0)?, &mm)?.pasid() == pasid);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn current_mm_can_be_bound() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let mm = new_mm()?;
        let pasid = Bond::bind(bed.dev(0)?, &mm)?.pasid();

        let none = Bond::bind_current(bed.dev(0)?, crate::current!());
        check!(matches!(none, Err(BindError::NoMm)));

        let bond = with_mm(&mm, || Bond::bind_current(bed.dev(0)?, crate::current!()));
        check!(bond?.pasid() == pasid);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn bond_does_not_keep_the_process() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let mm = new_mm()?;
        let bond = Bond::bind(bed.dev(0)?, &mm)?;

        drop(mm);
        // It has exited, and the IOMMU driver knows, but the PASID is still set.
        check!(bed.log.cut_at.load(Relaxed) != 0);
        check!(bed.log.pasids.load(Relaxed) == 1);

        // The PASID is not reused before the bond is dropped.
        let other = new_mm()?;
        check!(Bond::bind(bed.dev(0)?, &other)?.pasid() != bond.pasid());
        let pasid = bond.pasid();
        drop(bond);
        check!(bed.log.is_idle());
        check!(Bond::bind(bed.dev(0)?, &*new_mm()?)?.pasid() == pasid);
        Ok(())
    }

    // Contexts.

    #[test]
    fn exit_before_unbind() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);
        let context = Context::bind(bed.dev(0)?, &mm, Ok(User::new(&bed, &seen)))?;
        let pasid = context.pasid().ok_or(EINVAL)?;

        check!(seen.calls.load(Relaxed) == 0);
        check!(Arc::ptr_eq(&context.data().seen, &seen));
        drop(mm);
        // The exit was told, with the data given at bind, and with the PASID.
        check!(seen.calls.load(Relaxed) == 1);
        check!(seen.pasid.load(Relaxed) == pasid.get());
        check!(context.pasid().is_none());
        // Unbinding is still required.
        check!(bed.log.pasids.load(Relaxed) == 1);
        check!(seen.dropped_at.load(Relaxed) == 0);
        drop(context);
        check!(bed.log.is_idle());
        check!(seen.calls.load(Relaxed) == 1);
        check!(seen.wrong.load(Relaxed) == 0);
        Ok(())
    }

    #[test]
    fn unbind_before_exit() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);

        drop(Context::bind(bed.dev(0)?, &mm, Ok(User::new(&bed, &seen)))?);
        check!(seen.calls.load(Relaxed) == 0);
        check!(bed.log.is_idle());
        drop(mm);
        check!(seen.calls.load(Relaxed) == 0);
        Ok(())
    }

    #[test]
    fn data_is_dropped_before_unbinding() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);

        drop(Context::bind(bed.dev(0)?, &mm, Ok(User::new(&bed, &seen)))?);
        check!(seen.dropped_at.load(Relaxed) != 0);
        check!(seen.dropped_at.load(Relaxed) < bed.log.removed_at.load(Relaxed));
        Ok(())
    }

    #[test]
    fn exit_is_told_before_the_iommu_stops() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);
        let context = Context::bind(bed.dev(0)?, &mm, Ok(User::new(&bed, &seen)))?;

        drop(mm);
        check!(seen.called_at.load(Relaxed) < bed.log.cut_at.load(Relaxed));
        drop(context);
        Ok(())
    }

    #[test]
    fn contexts_may_have_different_operations() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);
        let first = Context::bind(bed.dev(0)?, &mm, Ok(User::new(&bed, &seen)))?;
        let second = Context::bind(bed.dev(0)?, &mm, Ok(Other(seen.clone())))?;

        check!(first.pasid() == second.pasid());
        drop(mm);
        check!(seen.calls.load(Relaxed) == 101);
        check!(first.pasid().is_none() && second.pasid().is_none());
        drop((first, second));
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn mm_exit_may_sleep_and_unbinding_waits_for_it() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);
        let mut user = User::new(&bed, &seen);
        user.sleeps = true;
        let context = Context::bind(bed.dev(0)?, &mm, Ok(user))?;

        let exit = spawn(move || drop(mm))?;
        seen.begun.wait_for_completion();
        // From here on `mm_exit` sleeps.
        check!(context.pasid().is_none());
        let unbound = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let unbind = {
            let unbound = unbound.clone();
            spawn(move || {
                drop(context);
                unbound.store(true, Relaxed);
            })?
        };
        fsleep(Delta::from_millis(100));
        let early = unbound.load(Relaxed);
        seen.go.complete_all();
        exit.wait_for_completion();
        unbind.wait_for_completion();
        check!(!early);
        check!(seen.calls.load(Relaxed) == 1);
        check!(seen.wrong.load(Relaxed) == 0);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn exit_races_unbind() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let mut told = 0;

        for round in 0..200_i64 {
            let (mm, seen) = (new_mm()?, Seen::new()?);
            let context = Context::bind(bed.dev(0)?, &mm, Ok(User::new(&bed, &seen)))?;
            // Both tasks wait for `go`, and then one of them a little longer.
            let (early, late) = (seen.clone(), seen.clone());
            let lead = 10 * (round % 20 - 10);
            let exit = spawn(move || {
                early.go.wait_for_completion();
                udelay(Delta::from_micros(lead.max(0)));
                drop(mm);
            })?;
            let unbind = spawn(move || {
                late.go.wait_for_completion();
                udelay(Delta::from_micros((-lead).max(0)));
                drop(context);
            })?;
            // Let both of them come to the point.
            fsleep(Delta::from_millis(1));
            seen.go.complete_all();

            exit.wait_for_completion();
            unbind.wait_for_completion();
            check!(seen.calls.load(Relaxed) <= 1);
            check!(seen.wrong.load(Relaxed) == 0);
            check!(bed.log.is_idle());
            told += seen.calls.load(Relaxed);
        }
        pr_info!("exit came first in {told} of 200 rounds\n");
        Ok(())
    }

    #[test]
    fn forked_process_has_a_pasid_of_its_own_and_exits() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);
        let process = Process::fork(&mm, false)?;
        let copy = process.mm()?;

        check!(copy.as_raw() != mm.as_raw());
        let parent = Bond::bind(bed.dev(0)?, &mm)?;
        let child = Context::bind(bed.dev(0)?, &copy, Ok(User::new(&bed, &seen)))?;
        check!(Some(parent.pasid()) != child.pasid());
        // The process is the last user of its address space.
        drop(copy);
        check!(seen.calls.load(Relaxed) == 0);
        process.exit.complete_all();
        seen.begun.wait_for_completion();
        check!(child.pasid().is_none());
        check!(seen.task.load(Relaxed) == process.task.load(Relaxed));
        drop(child);
        // The parent is not concerned.
        check!(seen.calls.load(Relaxed) == 1);
        check!(bed.log.pasids.load(Relaxed) == 1);
        drop(parent);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn last_of_two_processes_exits() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);
        let (one, two) = (Process::fork(&mm, true)?, Process::fork(&mm, true)?);
        let context = Context::bind(bed.dev(0)?, &mm, Ok(User::new(&bed, &seen)))?;

        check!(one.mm()?.as_raw() == mm.as_raw());
        drop((mm, two.mm()?));
        one.exit.complete_all();
        fsleep(Delta::from_millis(50));
        check!(seen.calls.load(Relaxed) == 0);
        two.exit.complete_all();
        seen.begun.wait_for_completion();
        check!(seen.task.load(Relaxed) == two.task.load(Relaxed));
        drop(context);
        check!(bed.log.is_idle());
        Ok(())
    }

    // Failures.

    /// Makes the current task have a signal pending while it lives.
    struct Signal;

    impl Signal {
        // The same on all architectures.
        const NUMBER: c_int = bindings::SIGUSR1 as c_int;

        /// `handler` is 1 to ignore the signal, and 2 for a kernel thread to see it.
        fn action(handler: usize) {
            // SAFETY: The C type of these constants is that of a function, which nobody calls.
            let handler =
                unsafe { core::mem::transmute::<usize, bindings::__sighandler_t>(handler) };
            // SAFETY: The signal is one that can be ignored.
            unsafe { bindings::kernel_sigaction(Self::NUMBER, handler) };
        }

        fn new() -> Self {
            Self::action(2);
            let task = crate::current!().as_ptr();
            // SAFETY: The current task is valid.
            unsafe { bindings::send_sig(Self::NUMBER, task, 1) };
            Self
        }
    }

    impl Drop for Signal {
        fn drop(&mut self) {
            let task = crate::current!().as_ptr();
            // SAFETY: The current task is valid.
            unsafe { bindings::flush_signals(task) };
            Self::action(1);
        }
    }

    #[test]
    fn notifier_that_cannot_be_registered_leaves_nothing_behind() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);
        // C looks at signals where it locks the areas of the address space, so there must be one.
        map_area(&mm, AREA, READ)?;
        // The domain is there already, so that only the notifier of the context fails.
        let first = Bond::bind(bed.dev(0)?, &mm)?;
        let signal = Signal::new();
        let failed = Context::bind(bed.dev(0)?, &mm, Ok(User::new(&bed, &seen)));
        drop(signal);
        check!(matches!(failed, Err(BindError::Other(EINTR))));
        check!(seen.dropped_at.load(Relaxed) != 0);
        check!(bed.log.pasids.load(Relaxed) == 1);
        drop(first);
        check!(bed.log.is_idle());
        drop(mm);
        check!(seen.calls.load(Relaxed) == 0);
        Ok(())
    }

    // The core says so while it resets a device, and it cannot do that to one that is not PCI; here
    // the IOMMU driver says it.
    #[test]
    fn device_in_recovery_says_so() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let mm = new_mm()?;

        bed.log.fail_set.store(EBUSY.to_errno(), Relaxed);
        let failed = Bond::bind(bed.dev(0)?, &mm);
        check!(matches!(failed, Err(BindError::InRecovery)));
        check!(bed.log.is_idle());
        drop(Bond::bind(bed.dev(0)?, &mm)?);
        Ok(())
    }

    #[cfg(CONFIG_ADDRESS_MASKING)]
    #[test]
    fn masked_addresses_say_so() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        let mm = new_mm()?;
        let mask = |mask: c_ulong| {
            // SAFETY: No task uses the address space, which is all ours.
            unsafe { (*mm.as_raw()).__bindgen_anon_1.context.lam_cr3_mask = mask };
        };

        // As the process had asked for by `arch_prctl(ARCH_ENABLE_TAGGED_ADDR)`.
        mask(1 << 62);
        let failed = Bond::bind(bed.dev(0)?, &mm).map(|bond| bond.pasid());
        mask(0);
        check!(failed == Err(BindError::MmIncompatible));
        check!(bed.log.is_idle());
        drop(Bond::bind(bed.dev(0)?, &mm)?);
        Ok(())
    }

    #[test]
    fn failures_leave_nothing_behind() -> Result {
        let bed = new_bed(&[(0, Some(5)), (1, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);
        let user = || Ok(User::new(&bed, &seen));

        // No domain.
        bed.log.fail_new.store(ENOMEM.to_errno(), Relaxed);
        let failed = Bond::bind(bed.dev(0)?, &mm);
        check!(matches!(failed, Err(BindError::Other(ENOMEM))));
        check!(bed.log.is_idle());

        // The IOMMU refuses the PASID.
        bed.log.fail_set.store(EIO.to_errno(), Relaxed);
        let failed = Context::bind(bed.dev(0)?, &mm, user());
        check!(matches!(failed, Err(BindError::Other(EIO))));
        check!(bed.log.is_idle());
        // The data was not even made.
        check!(seen.dropped_at.load(Relaxed) != 0);

        // The driver's data fails after the bond was made.
        let failed = Context::bind(bed.dev(0)?, &mm, Err::<User, _>(ENXIO));
        check!(matches!(failed, Err(BindError::Other(ENXIO))));
        check!(bed.log.is_idle());

        // A second device for which the domain of the first one is no good gets its own.
        let first = Bond::bind(bed.dev(0)?, &mm)?;
        bed.log.fail_set.store(EINVAL.to_errno(), Relaxed);
        let second = Bond::bind(bed.dev(1)?, &mm)?;
        check!(bed.log.domains.load(Relaxed) == 2);
        check!(first.pasid() == second.pasid());
        drop((first, second));
        check!(bed.log.is_idle());

        // After all that, it works.
        let context = Context::bind(bed.dev(0)?, &mm, user())?;
        drop(mm);
        check!(seen.calls.load(Relaxed) == 1);
        drop(context);
        check!(bed.log.is_idle());
        Ok(())
    }

    /// A bond, and the address space it is for.
    type Bonded = (Bond<'static>, ARef<MmWithUser>);

    /// Binds new address spaces until that fails. The lowest free PASID comes first; a CPU that
    /// last ran in an address space may still hold that and its PASID.
    fn bind_many(bed: &Bed) -> Result<(KVec<Bonded>, BindError)> {
        let mut bonds = KVec::new();
        loop {
            let mm = new_mm()?;
            match Bond::bind(bed.dev(0)?, &mm) {
                Ok(bond) => bonds.push((bond, mm), GFP_KERNEL)?,
                Err(e) => return Ok((bonds, e)),
            }
        }
    }

    #[test]
    fn pasids_run_out() -> Result {
        let bed = new_bed(&[(0, Some(5))])?;
        check!(max_pasids(bed.dev(0)?) == 32);

        let (mut bonds, error) = bind_many(&bed)?;
        check!((16..32).contains(&bonds.len()));
        check!(bonds.iter().all(|(bond, _)| bond.pasid().get() < 32));
        check!(error == BindError::PasidsUsedUp);
        check!(supported(bed.dev(0)?).is_ok());

        // Unbinding alone gives no PASID back, it belongs to the address space.
        let mm = new_mm()?;
        let (bond, old) = bonds.pop().ok_or(EINVAL)?;
        drop(bond);
        check!(Bond::bind(bed.dev(0)?, &mm).is_err());
        drop(old);
        check!(Bond::bind(bed.dev(0)?, &mm).is_ok());
        drop(bonds);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn pasid_can_be_too_large() -> Result {
        let bed = new_bed(&[(0, Some(5)), (1, Some(4))])?;
        let (bonds, _) = bind_many(&bed)?;

        for (bond, mm) in &bonds {
            match Bond::bind(bed.dev(1)?, mm) {
                Ok(second) => check!(second.pasid() == bond.pasid() && second.pasid().get() < 16),
                Err(BindError::PasidTooLarge) => check!(bond.pasid().get() >= 16),
                Err(_) => return Err(EINVAL),
            }
        }
        let large = bonds.iter().filter(|(bond, _)| bond.pasid().get() >= 16);
        check!((1..bonds.len()).contains(&large.count()));
        drop(bonds);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn group_of_two_devices_is_refused() -> Result {
        let mut bed = new_bed(&[(2, Some(5)), (3, Some(5))])?;
        let mm = new_mm()?;

        check!(supported(bed.dev(0)?) == Err(BindError::SharedGroup));
        check!(supported(bed.dev(1)?) == Err(BindError::SharedGroup));
        let failed = Bond::bind(bed.dev(0)?, &mm);
        check!(matches!(failed, Err(BindError::SharedGroup)));

        // The device that is left has the group for itself.
        bed.devices.pop();
        check!(supported(bed.dev(0)?).is_ok());
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        // Another one may come, but the core gives it no driver, and the first no more bonds.
        bed.add(3, Some(5))?;
        check!(matches!(bed.dev(1), Err(ENXIO)));
        let failed = Bond::bind(bed.dev(0)?, &mm);
        check!(matches!(failed, Err(BindError::SharedGroup)));
        drop(bond);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn leaked_handle_of_another_device_is_refused() -> Result {
        let bed = new_bed(&[(0, Some(5)), (1, Some(5))])?;
        let mm = new_mm()?;
        let leaked = Bond::bind(bed.dev(0)?, &mm)?;

        // The handle says that it is another device's, as it would if that had left the group.
        let other = bed.dev(1)?.as_raw();
        // SAFETY: The handle is valid, and nobody looks at it now.
        let owner = unsafe { ptr::replace(&raw mut (*leaked.as_raw()).dev, other) };
        let failed = Bond::bind(bed.dev(0)?, &mm);
        // SAFETY: As above.
        unsafe { (*leaked.as_raw()).dev = owner };
        check!(matches!(failed, Err(BindError::SharedGroup)));
        check!(bed.log.pasids.load(Relaxed) == 1);
        drop(leaked);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn devices_without_pasids_say_so() -> Result {
        let bed = new_bed(&[(0, None), (1, Some(5)), (4, Some(5))])?;
        let mm = new_mm()?;
        let bind = |n| Bond::bind(bed.dev(n)?, &mm).map(|bond| bond.pasid());

        check!(max_pasids(bed.dev(0)?) == 0);
        check!(supported(bed.dev(0)?) == Err(BindError::NoPasids));
        check!(bind(0) == Err(BindError::NoPasids));

        // The limit of the device and that of the IOMMU count.
        check!(max_pasids(bed.dev(1)?) == 32);
        check!(supported(bed.dev(1)?).is_ok());

        check!(max_pasids(bed.dev(2)?) == 0);
        check!(supported(bed.dev(2)?) == Err(BindError::NoIommu));
        check!(bind(2) == Err(BindError::NoIommu));
        Ok(())
    }

    #[test]
    fn device_with_pasid_0_alone_says_so() -> Result {
        let bed = new_bed(&[(0, Some(0))])?;
        let mm = new_mm()?;

        check!(max_pasids(bed.dev(0)?) == 1);
        check!(supported(bed.dev(0)?) == Err(BindError::NoPasids));
        let failed = Bond::bind(bed.dev(0)?, &mm);
        check!(matches!(failed, Err(BindError::NoPasids)));
        Ok(())
    }

    #[test]
    fn iommu_without_pasids_says_so() -> Result {
        // As the TCE driver registers itself.
        let bed = Bed::with(&PLAIN_OPS, 0, &[(0, Some(5))])?;
        let mm = new_mm()?;

        check!(max_pasids(bed.dev(0)?) == 0);
        check!(supported(bed.dev(0)?) == Err(BindError::NoPasids));
        let failed = Bond::bind(bed.dev(0)?, &mm);
        check!(matches!(failed, Err(BindError::NoPasids)));

        // C comes to the same result, and nothing is left behind.
        // SAFETY: The device is valid, and `mm` has a user.
        let c = unsafe { bindings::iommu_sva_bind_device(bed.dev(0)?.as_raw(), mm.as_raw()) };
        check!(from_err_ptr(c) == Err(ENOSPC));
        // SAFETY: `mm` is valid.
        check!(unsafe { (*mm.as_raw()).__bindgen_anon_1.iommu_mm }.is_null());
        Ok(())
    }

    #[test]
    fn iommu_driver_without_support_says_so() -> Result {
        for ops in [&PLAIN_OPS, &HALF_OPS] {
            let bed = Bed::with(ops, 64, &[(0, Some(5))])?;
            let mm = new_mm()?;

            check!(max_pasids(bed.dev(0)?) == 32);
            check!(supported(bed.dev(0)?) == Err(BindError::NoDriverSupport));
            let failed = Bond::bind(bed.dev(0)?, &mm);
            check!(matches!(failed, Err(BindError::NoDriverSupport)));
            check!(bed.log.is_idle());
        }
        Ok(())
    }

    #[test]
    fn absent_operations_are_null() -> Result {
        // SAFETY: The domains are statics with operations.
        let set_pasid = |domain: *mut bindings::iommu_domain| unsafe {
            let ops = &*(*domain).ops;
            (ops.attach_dev.is_some(), ops.set_dev_pasid.is_some())
        };

        check!(PLAIN_OPS.0.domain_alloc_sva.is_none());
        check!(OPS.0.domain_alloc_sva.is_some());
        check!(OPS.0.page_response.is_none());
        check!(set_pasid(PLAIN_BLOCKED.as_raw()) == (true, false));
        check!(set_pasid(BLOCKED.as_raw()) == (true, true));
        Ok(())
    }

    #[test]
    fn errors_say_why() -> Result {
        let cases = [
            (EOPNOTSUPP, true, BindError::NoDriverSupport),
            (ENOSPC, true, BindError::PasidsUsedUp),
            (EOVERFLOW, true, BindError::PasidTooLarge),
            (EBUSY, false, BindError::MmIncompatible),
            (EBUSY, true, BindError::InRecovery),
            (ENOMEM, true, BindError::Other(ENOMEM)),
        ];
        for (c, compatible, why) in cases {
            check!(BindError::from_bind(c, compatible) == why);
            // And back to what C had.
            check!(Error::from(why) == c);
        }
        // Intel's driver says this of an IOMMU that lacks something. There is an IOMMU.
        check!(BindError::from_bind(ENODEV, true) == BindError::NoDriverSupport);
        check!(Error::from(BindError::NoIommu) == ENODEV);
        let text = CString::try_from_fmt(fmt!("{}", BindError::NoPasids))?;
        check!(text.to_bytes() == b"the device or its IOMMU has no PASIDs");
        Ok(())
    }

    // Notifiers.

    struct Calls(Arc<Atomic<i32>>);

    impl Release for Calls {
        fn release(self: Pin<&Self>, _mm: &Mm) {
            self.0.add(1, Relaxed);
        }
    }

    #[test]
    fn notifier_is_called_once_or_not_at_all() -> Result {
        let calls = Arc::new(Atomic::new(0), GFP_KERNEL)?;
        let notifier = |mm: &MmWithUser| {
            KBox::pin_init(Notifier::new(mm, Ok(Calls(calls.clone()))), GFP_KERNEL)
        };

        let mm = new_mm()?;
        let (one, two) = (notifier(&mm)?, notifier(&mm)?);
        check!(!one.is_released());
        drop(one);
        check!(calls.load(Relaxed) == 0);
        drop(mm);
        check!(calls.load(Relaxed) == 1);
        check!(two.is_released());
        drop(two);
        check!(calls.load(Relaxed) == 1);

        // Data that cannot be made registers nothing.
        let mm = new_mm()?;
        let failed = KBox::pin_init(Notifier::new(&mm, Err::<Calls, _>(ENXIO)), GFP_KERNEL);
        check!(matches!(failed, Err(ENXIO)));
        drop(mm);
        check!(calls.load(Relaxed) == 1);
        Ok(())
    }
}
