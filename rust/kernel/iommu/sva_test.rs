// SPDX-License-Identifier: GPL-2.0

//! Tests of shared virtual addressing, through the real IOMMU core.
//!
//! There is an IOMMU driver with PASIDs, which claims platform devices that the tests make, and
//! address spaces that the tests make and end. A firmware node ties the devices to the IOMMU, so
//! other IOMMU drivers do not matter.

#[macros::kunit_tests(rust_iommu_sva)]
mod tests {
    use super::super::{
        device::ProbeLock,
        sva::*,
        *, //
    };
    use crate::{
        bindings,
        device::{
            Bound,
            Device, //
        },
        error::{
            from_err_ptr,
            to_result, //
        },
        io::PhysAddr,
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
                Full,
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
        types::Opaque,
        workqueue, //
    };
    use core::ptr::{
        self,
        NonNull, //
    };

    /// Fails the test with a line in the log. Other than an assertion it lets destructors run.
    macro_rules! check {
        ($cond:expr) => {
            if !$cond {
                pr_err!("line {}: {}\n", line!(), stringify!($cond));
                return Err(EINVAL);
            }
        };
    }

    // The IOMMU.

    /// What the IOMMU driver saw, and what it shall do.
    struct Log {
        clock: Atomic<i32>,
        domains: Atomic<i32>,
        pasids: Atomic<i32>,
        /// PASIDs that were set twice.
        wrong: Atomic<i32>,
        removed_at: Atomic<i32>,
        /// When the IOMMU stopped to answer for an address space.
        cut_at: Atomic<i32>,
        fail_new: Atomic<bool>,
        /// The error for the next PASID, or 0.
        fail_set: Atomic<i32>,
    }

    impl Log {
        fn new() -> Result<Arc<Self>> {
            let log = Self {
                clock: Atomic::new(0),
                domains: Atomic::new(0),
                pasids: Atomic::new(0),
                wrong: Atomic::new(0),
                removed_at: Atomic::new(0),
                cut_at: Atomic::new(0),
                fail_new: Atomic::new(false),
                fail_set: Atomic::new(0),
            };
            Ok(Arc::new(log, GFP_KERNEL)?)
        }

        /// The number of this event, from 1 on.
        fn tick(&self) -> i32 {
            self.clock.fetch_add(1, Full) + 1
        }

        /// Says whether nothing is left behind.
        fn is_idle(&self) -> bool {
            self.domains.load(Relaxed) == 0
                && self.pasids.load(Relaxed) == 0
                && self.wrong.load(Relaxed) == 0
        }
    }

    struct Mock;

    struct Board {
        log: Arc<Log>,
        /// The group of all devices that have none for themselves.
        shared: ARef<Group>,
    }

    #[pin_data]
    struct Endpoint {
        group: ARef<Group>,
        /// A bit for each PASID that is set.
        #[pin]
        table: Mutex<u64>,
    }

    #[vtable]
    impl Driver for Mock {
        type Instance = Board;
        type Endpoint = Endpoint;
        type Paging = Empty;

        fn probe_device<'p>(
            dev: &Device,
            mut all: Instances<'p, Self>,
        ) -> Result<(&'p Instance<Self>, impl PinInit<Endpoint, Error>)> {
            let number = dev.name().to_bytes().strip_prefix(b"rust-sva.");
            let alone = match number.ok_or(ENODEV)? {
                b"0" | b"1" => true,
                b"2" | b"3" => false,
                _ => return Err(ENODEV),
            };
            let instance = all.next().ok_or(ENODEV)?;
            let group = if alone {
                Group::new()?
            } else {
                instance.data().shared.clone()
            };
            let endpoint = try_pin_init!(Endpoint {
                group,
                table <- new_mutex!(0),
            });
            Ok((instance, endpoint))
        }

        fn device_group(ctx: &EndpointCtx<'_, Self>) -> Result<ARef<Group>> {
            Ok(ctx.endpoint().group.clone())
        }

        fn default_domain(_ctx: &EndpointCtx<'_, Self>) -> DefaultDomain {
            DefaultDomain::Identity
        }

        fn reserved_regions(_ctx: &EndpointCtx<'_, Self>, _out: &mut ReservedRegions<'_>) {}

        fn capable(_ctx: &EndpointCtx<'_, Self>, _cap: Cap) -> bool {
            false
        }
    }

    struct NoAccess;

    // SAFETY: The devices do not exist.
    unsafe impl StaticOps for NoAccess {
        type Kind = Blocked;
        type Driver = Mock;

        fn attach(_ctx: &AttachCtx<'_, Mock>) -> Result {
            Ok(())
        }
    }

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

    struct Direct;

    // SAFETY: The devices do not exist.
    unsafe impl StaticOps for Direct {
        type Kind = Identity;
        type Driver = Mock;

        fn attach(_ctx: &AttachCtx<'_, Mock>) -> Result {
            Ok(())
        }
    }

    struct Empty;

    // SAFETY: There is never such a domain.
    #[vtable]
    unsafe impl PagingOps for Empty {
        type Driver = Mock;

        fn new(_ctx: &EndpointCtx<'_, Mock>) -> Result<(Geometry, impl PinInit<Self, Error>)> {
            Err::<(_, Result<Self>), _>(ENODEV)
        }

        fn attach(self: Pin<&Self>, _ctx: &AttachCtx<'_, Mock>) -> Result {
            Err(ENODEV)
        }

        fn map(self: Pin<&Self>, _req: &MapRequest) -> Result<(), MapError> {
            Err(ENODEV.into())
        }

        fn unmap(self: Pin<&Self>, _req: &UnmapRequest, _gather: &mut IotlbGather<'_>) -> Pages {
            Pages::new(0)
        }

        fn iova_to_phys(self: Pin<&Self>, _iova: Iova) -> Option<PhysAddr> {
            None
        }
    }

    /// The domain of an address space.
    #[pin_data(PinnedDrop)]
    struct Space {
        log: Arc<Log>,
        #[pin]
        exit: Notifier<Cut>,
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

            if log.fail_new.xchg(false, Relaxed) {
                return Err(ENOMEM);
            }
            Ok(try_pin_init!(Self {
                exit <- Notifier::new(mm, Ok(Cut(log.clone()))),
                log,
                _: {
                    log.domains.add(1, Relaxed);
                },
            }))
        }

        fn set_pasid(self: Pin<&Self>, ctx: &EndpointCtx<'_, Mock>, pasid: Pasid) -> Result {
            to_result(self.log.fail_set.xchg(0, Relaxed))?;

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

    #[pinned_drop]
    impl PinnedDrop for Space {
        fn drop(self: Pin<&mut Self>) {
            self.log.domains.add(-1, Relaxed);
        }
    }

    static DIRECT: StaticDomain<Direct> = StaticDomain::new();
    static BLOCKED: StaticDomain<NoAccess> = StaticDomain::with_pasids();
    static OPS: Ops<Mock> = Ops::new()
        .blocked(&BLOCKED)
        .identity(&DIRECT)
        .sva::<Space>();

    // A driver that leaves out what is optional.
    static PLAIN_BLOCKED: StaticDomain<NoAccess> = StaticDomain::new();
    static PLAIN_OPS: Ops<Mock> = Ops::new().blocked(&PLAIN_BLOCKED).identity(&DIRECT);
    static HALF_OPS: Ops<Mock> = Ops::new()
        .blocked(&PLAIN_BLOCKED)
        .identity(&DIRECT)
        .sva::<Space>();

    // The devices.

    /// A platform device with PASIDs.
    struct Endpt(NonNull<bindings::platform_device>);

    impl Endpt {
        /// Makes a device, which belongs to the IOMMU with the firmware node unless that is null.
        fn new(
            id: c_int,
            pasid_bits: Option<u32>,
            node: *mut bindings::fwnode_handle,
        ) -> Result<Self> {
            // SAFETY: The name is a C string.
            let raw = unsafe { bindings::platform_device_alloc(c"rust-sva".as_char_ptr(), id) };
            let this = NonNull::new(raw).ok_or(ENOMEM)?;
            // SAFETY: The device is initialised and not yet added.
            let added = unsafe { Self::add(raw, pasid_bits, node) };
            if let Err(e) = added {
                // SAFETY: The device was not added.
                unsafe { bindings::platform_device_put(raw) };
                return Err(e);
            }
            Ok(Self(this))
        }

        /// # Safety
        ///
        /// `raw` must be initialised and not yet added, and `node` null or valid.
        unsafe fn add(
            raw: *mut bindings::platform_device,
            pasid_bits: Option<u32>,
            node: *mut bindings::fwnode_handle,
        ) -> Result {
            // SAFETY: The device is valid.
            let dev = unsafe { &raw mut (*raw).dev };

            if let Some(bits) = pasid_bits {
                let mut properties: [bindings::property_entry; 2] = pin_init::zeroed();
                properties[0].name = c"pasid-num-bits".as_char_ptr();
                properties[0].length = size_of::<u32>();
                properties[0].is_inline = true;
                properties[0].type_ = bindings::dev_prop_type_DEV_PROP_U32;
                properties[0].__bindgen_anon_1.value.u32_data = [bits, 0];
                // SAFETY: The properties are complete, and are copied.
                to_result(unsafe {
                    bindings::device_create_managed_software_node(
                        dev,
                        properties.as_ptr(),
                        ptr::null(),
                    )
                })?;
            }
            if !node.is_null() {
                let _lock = ProbeLock::lock();
                // SAFETY: Both are valid, and the probe lock is held.
                to_result(unsafe { bindings::iommu_fwspec_init(dev, node) })?;
            }
            // SAFETY: The device is initialised.
            to_result(unsafe { bindings::platform_device_add(raw) })
        }

        /// Returns the device, which is bound as long as the test bed is there.
        fn dev(&self) -> Result<&'static Device<Bound>> {
            // SAFETY: The device was registered, and the tests do not use it after the test bed.
            let dev: &Device = unsafe {
                let dev = &raw mut (*self.0.as_ptr()).dev;
                if (*dev).driver.is_null() {
                    return Err(ENXIO);
                }
                Device::from_raw(dev)
            };
            // SAFETY: Checked above; nobody else unbinds it.
            Ok(unsafe { dev.as_bound() })
        }
    }

    impl Drop for Endpt {
        fn drop(&mut self) {
            // SAFETY: The device was registered.
            unsafe { bindings::platform_device_unregister(self.0.as_ptr()) };
        }
    }

    /// The driver of the devices.
    struct EndptDriver(Pin<KBox<Opaque<bindings::platform_driver>>>);

    impl EndptDriver {
        fn new() -> Result<Self> {
            let mut raw: bindings::platform_driver = pin_init::zeroed();
            raw.driver.name = c"rust-sva".as_char_ptr();
            let raw = KBox::pin(Opaque::new(raw), GFP_KERNEL)?;
            // SAFETY: The driver is initialised, and pinned until it is unregistered.
            to_result(unsafe {
                bindings::__platform_driver_register(
                    raw.get(),
                    ptr::null_mut(),
                    c"kernel".as_char_ptr(),
                )
            })?;
            Ok(Self(raw))
        }
    }

    impl Drop for EndptDriver {
        fn drop(&mut self) {
            // SAFETY: The driver is registered.
            unsafe { bindings::platform_driver_unregister(self.0.get()) };
        }
    }

    /// The firmware node of the IOMMU.
    struct Node(*mut bindings::fwnode_handle);

    impl Node {
        fn new() -> Result<Self> {
            // SAFETY: A node needs neither properties nor a parent.
            let node = unsafe { bindings::fwnode_create_software_node(ptr::null(), ptr::null()) };
            Ok(Self(from_err_ptr(node)?))
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            // SAFETY: The node was created.
            unsafe { bindings::fwnode_remove_software_node(self.0) };
        }
    }

    /// An IOMMU with devices. The fields are dropped in the right order.
    struct Bed {
        devices: KVec<Endpt>,
        _driver: EndptDriver,
        _iommu: Registration<Mock>,
        node: Node,
        log: Arc<Log>,
    }

    impl Bed {
        /// `devices` has numbers of devices and their PASID bits.
        fn with(
            ops: &'static Ops<Mock>,
            max_pasids: u32,
            devices: &[(c_int, Option<u32>)],
        ) -> Result<Self> {
            let log = Log::new()?;
            let board = Board {
                log: log.clone(),
                shared: Group::new()?,
            };
            let iommu = Unregistered::new(Ok(board), max_pasids)?;
            let node = Node::new()?;
            // SAFETY: Nobody else sees the instance yet, and the node outlives it.
            unsafe { (*iommu.as_raw()).fwnode = node.0 };
            let mut bed = Self {
                devices: KVec::new(),
                _iommu: iommu.register(ops, None, fmt!("rust-sva-mock"))?,
                _driver: EndptDriver::new()?,
                node,
                log,
            };
            for &(id, bits) in devices {
                bed.add(id, bits)?;
            }
            Ok(bed)
        }

        fn add(&mut self, id: c_int, bits: Option<u32>) -> Result {
            // Number 4 has no IOMMU.
            let node = if id == 4 {
                ptr::null_mut()
            } else {
                self.node.0
            };
            Ok(self.devices.push(Endpt::new(id, bits, node)?, GFP_KERNEL)?)
        }

        fn new(devices: &[(c_int, Option<u32>)]) -> Result<Self> {
            Self::with(&OPS, 64, devices)
        }

        fn dev(&self, index: usize) -> Result<&'static Device<Bound>> {
            self.devices.get(index).ok_or(EINVAL)?.dev()
        }
    }

    // The address spaces.

    fn new_mm() -> Result<ARef<MmWithUser>> {
        // SAFETY: No precondition.
        let mm = NonNull::new(unsafe { bindings::mm_alloc() }).ok_or(ENOMEM)?;

        // SAFETY: The new address space has one user, which is ours.
        Ok(unsafe { ARef::from_raw(mm.cast()) })
    }

    /// What the user of a device saw.
    #[pin_data]
    struct Seen {
        calls: Atomic<i32>,
        pasid: Atomic<u32>,
        called_at: Atomic<i32>,
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

    /// Runs `f` in another task.
    fn spawn(f: impl FnOnce() + Send + 'static) -> Result<Arc<Completion>> {
        let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let signal = done.clone();

        workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
            f();
            signal.complete_all();
        })?;
        Ok(done)
    }

    // Bonds.

    #[test]
    fn same_mm_and_device_twice_is_one_handle() -> Result {
        let bed = Bed::new(&[(0, Some(5))])?;
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
        let bed = Bed::new(&[(0, Some(5)), (1, Some(5))])?;
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
        let bed = Bed::new(&[(0, Some(5))])?;
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
        let bed = Bed::new(&[(0, Some(5))])?;
        let mm = new_mm()?;
        let pasid = Bond::bind(bed.dev(0)?, &mm)?.pasid();

        check!(bed.log.is_idle());
        check!(Bond::bind(bed.dev(0)?, &mm)?.pasid() == pasid);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn current_mm_can_be_bound() -> Result {
        let bed = Bed::new(&[(0, Some(5))])?;
        let mm = new_mm()?;
        let pasid = Bond::bind(bed.dev(0)?, &mm)?.pasid();

        let none = Bond::bind_current(bed.dev(0)?, crate::current!());
        check!(matches!(none, Err(BindError::NoMm)));

        // SAFETY: This is a kernel thread without an address space, and `mm` has a user.
        unsafe { bindings::kthread_use_mm(mm.as_raw()) };
        let bond = Bond::bind_current(bed.dev(0)?, crate::current!());
        // SAFETY: As above; this is what it uses.
        unsafe { bindings::kthread_unuse_mm(mm.as_raw()) };
        check!(bond?.pasid() == pasid);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn bond_does_not_keep_the_process() -> Result {
        let bed = Bed::new(&[(0, Some(5))])?;
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
        let bed = Bed::new(&[(0, Some(5))])?;
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
        let bed = Bed::new(&[(0, Some(5))])?;
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
        let bed = Bed::new(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);

        drop(Context::bind(bed.dev(0)?, &mm, Ok(User::new(&bed, &seen)))?);
        check!(seen.dropped_at.load(Relaxed) != 0);
        check!(seen.dropped_at.load(Relaxed) < bed.log.removed_at.load(Relaxed));
        Ok(())
    }

    #[test]
    fn exit_is_told_before_the_iommu_stops() -> Result {
        let bed = Bed::new(&[(0, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);
        let context = Context::bind(bed.dev(0)?, &mm, Ok(User::new(&bed, &seen)))?;

        drop(mm);
        check!(seen.called_at.load(Relaxed) < bed.log.cut_at.load(Relaxed));
        drop(context);
        Ok(())
    }

    #[test]
    fn contexts_may_have_different_operations() -> Result {
        let bed = Bed::new(&[(0, Some(5))])?;
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
        let bed = Bed::new(&[(0, Some(5))])?;
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
        let bed = Bed::new(&[(0, Some(5))])?;
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

    // Failures.

    #[test]
    fn failures_leave_nothing_behind() -> Result {
        let bed = Bed::new(&[(0, Some(5)), (1, Some(5))])?;
        let (mm, seen) = (new_mm()?, Seen::new()?);
        let user = || Ok(User::new(&bed, &seen));

        // No domain.
        bed.log.fail_new.store(true, Relaxed);
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

    #[test]
    fn pasids_run_out() -> Result {
        // Two bits: the PASIDs 1, 2 and 3.
        let bed = Bed::new(&[(0, Some(2))])?;
        check!(max_pasids(bed.dev(0)?) == 4);

        let mut bonds = KVec::new();
        for _ in 0..3 {
            let mm = new_mm()?;
            bonds.push((Bond::bind(bed.dev(0)?, &mm)?, mm), GFP_KERNEL)?;
        }
        let mm = new_mm()?;
        let failed = Bond::bind(bed.dev(0)?, &mm);
        check!(matches!(failed, Err(BindError::PasidsUsedUp)));
        check!(supported(bed.dev(0)?).is_ok());

        // Unbinding alone gives no PASID back, it belongs to the address space.
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
        let bed = Bed::new(&[(0, Some(5)), (1, Some(1))])?;
        let (mm1, mm2) = (new_mm()?, new_mm()?);
        let first = Bond::bind(bed.dev(0)?, &mm1)?;
        let second = Bond::bind(bed.dev(0)?, &mm2)?;

        let failed = Bond::bind(bed.dev(1)?, &mm2);
        check!(matches!(failed, Err(BindError::PasidTooLarge)));
        // The other one has PASID 1.
        drop(Bond::bind(bed.dev(1)?, &mm1)?);
        drop((first, second));
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn group_of_two_devices_is_refused() -> Result {
        let mut bed = Bed::new(&[(2, Some(5)), (3, Some(5))])?;
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
        let bed = Bed::new(&[(0, Some(5)), (1, Some(5))])?;
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
        let bed = Bed::new(&[(0, None), (1, Some(5)), (4, Some(5))])?;
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
            (ENODEV, true, BindError::NoIommu),
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
        let text = CString::try_from_fmt(fmt!("{}", BindError::NoPasids))?;
        check!(text.to_bytes() == b"the device or its IOMMU has no PASIDs");
        Ok(())
    }

    // Notifiers.

    struct Count(Arc<Atomic<i32>>);

    impl Release for Count {
        fn release(self: Pin<&Self>, _mm: &Mm) {
            self.0.add(1, Relaxed);
        }
    }

    #[test]
    fn notifier_is_called_once_or_not_at_all() -> Result {
        let calls = Arc::new(Atomic::new(0), GFP_KERNEL)?;
        let notifier = |mm: &MmWithUser| {
            KBox::pin_init(Notifier::new(mm, Ok(Count(calls.clone()))), GFP_KERNEL)
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
        let failed = KBox::pin_init(Notifier::new(&mm, Err::<Count, _>(ENXIO)), GFP_KERNEL);
        check!(matches!(failed, Err(ENXIO)));
        drop(mm);
        check!(calls.load(Relaxed) == 1);
        Ok(())
    }
}
