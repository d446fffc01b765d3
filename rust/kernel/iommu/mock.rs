// SPDX-License-Identifier: GPL-2.0

//! An IOMMU driver and devices for tests, below the real IOMMU core.
//!
//! The driver claims platform devices that the tests make. A firmware node ties the devices to the
//! IOMMU, so other IOMMU drivers do not matter. A [`Log`] says what the driver saw, and tells it
//! what to do wrong.

#![cfg_attr(not(CONFIG_RUST_IOMMU_SVA_KUNIT_TEST), allow(dead_code))]

use super::{
    page_request::{
        Request,
        Response, //
    },
    testing::{
        TestDevice,
        TestDriver, //
    },
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
    new_mutex,
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        Completion,
        Mutex,
        SpinLock, //
    },
    workqueue, //
};
use core::ptr;

/// Fails the test with a line in the log. Other than an assertion it lets destructors run.
macro_rules! check {
    ($cond:expr) => {
        if !$cond {
            pr_err!("line {}: {}\n", line!(), stringify!($cond));
            return Err(EINVAL);
        }
    };
}
pub(super) use check;

/// Runs `f` in another task.
pub(super) fn spawn(f: impl FnOnce() + Send + 'static) -> Result<Arc<Completion>> {
    let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
    let signal = done.clone();

    workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
        f();
        signal.complete_all();
    })?;
    Ok(done)
}

/// The first address of a paging domain, and the last one.
pub(super) const FIRST: u64 = 0x10_0000;
pub(super) const LAST: u64 = 0x1f_ffff;
/// How many pages it has.
const PAGES: usize = 0x100;

/// Where a device is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Nowhere,
    Blocked,
    Direct,
    Paging,
}

/// What the IOMMU driver saw, and what it shall do.
#[pin_data]
pub(super) struct Log {
    pub(super) clock: Atomic<i32>,
    /// How many of each there are.
    pub(super) boards: Atomic<i32>,
    pub(super) endpoints: Atomic<i32>,
    pub(super) domains: Atomic<i32>,
    pub(super) pasids: Atomic<i32>,
    /// What the core or the abstractions should not have done.
    pub(super) wrong: Atomic<i32>,
    pub(super) removed_at: Atomic<i32>,
    /// When the IOMMU stopped to answer for an address space.
    pub(super) cut_at: Atomic<i32>,
    /// How often paging domains were told that a map is complete, and what to invalidate last.
    pub(super) sync_maps: Atomic<i32>,
    #[pin]
    pub(super) synced: SpinLock<Option<IovaRange>>,
    /// The answers to page requests.
    #[pin]
    pub(super) answers: Mutex<KVec<(Request, Response)>>,

    /// The errors for what is done next, or 0.
    pub(super) fail_probe: Atomic<i32>,
    pub(super) fail_endpoint: Atomic<i32>,
    pub(super) fail_group: Atomic<i32>,
    pub(super) fail_new: Atomic<i32>,
    pub(super) fail_set: Atomic<i32>,
    pub(super) fail_map: Atomic<i32>,
    /// Which call of an attach fails, counted from 1, or 0.
    pub(super) fail_attach: Atomic<i32>,
    /// How many pages `map` (when it fails) and `unmap` claim to have done, if not negative.
    pub(super) claim: Atomic<i64>,
    /// The page size of paging domains.
    pub(super) shift: Atomic<u32>,
}

impl Log {
    pub(super) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                clock: Atomic::new(0),
                boards: Atomic::new(0),
                endpoints: Atomic::new(0),
                domains: Atomic::new(0),
                pasids: Atomic::new(0),
                wrong: Atomic::new(0),
                removed_at: Atomic::new(0),
                cut_at: Atomic::new(0),
                sync_maps: Atomic::new(0),
                synced <- new_spinlock!(None),
                answers <- new_mutex!(KVec::new()),
                fail_probe: Atomic::new(0),
                fail_endpoint: Atomic::new(0),
                fail_group: Atomic::new(0),
                fail_new: Atomic::new(0),
                fail_set: Atomic::new(0),
                fail_map: Atomic::new(0),
                fail_attach: Atomic::new(0),
                claim: Atomic::new(-1),
                shift: Atomic::new(12),
            }),
            GFP_KERNEL,
        )
    }

    /// The number of this event, from 1 on.
    pub(super) fn tick(&self) -> i32 {
        self.clock.fetch_add(1, Full) + 1
    }

    /// Says whether no domain is left behind.
    pub(super) fn is_idle(&self) -> bool {
        self.domains.load(Relaxed) == 0
            && self.pasids.load(Relaxed) == 0
            && self.wrong.load(Relaxed) == 0
    }

    /// Fails if a test asked for it, once.
    pub(super) fn fail(error: &Atomic<i32>) -> Result {
        to_result(error.xchg(0, Relaxed))
    }
}

/// Counts one more of something for as long as it lives.
pub(super) struct Count(Arc<Log>, fn(&Log) -> &Atomic<i32>);

impl Count {
    pub(super) fn new(log: &Arc<Log>, which: fn(&Log) -> &Atomic<i32>) -> Self {
        which(log).add(1, Relaxed);
        Self(log.clone(), which)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        (self.1)(&self.0).add(-1, Relaxed);
    }
}

pub(super) struct Mock;

pub(super) struct Board {
    pub(super) log: Arc<Log>,
    /// The group of all devices that have none for themselves.
    shared: ARef<Group>,
    _count: Count,
}

#[pin_data]
pub(super) struct Endpoint {
    alone: bool,
    #[pin]
    place: Mutex<Place>,
    /// A bit for each PASID that is set.
    #[pin]
    pub(super) table: Mutex<u64>,
    _count: Count,
}

#[vtable]
impl Driver for Mock {
    type Instance = Board;
    type Endpoint = Endpoint;
    type Paging = Table;

    fn probe_device<'p>(
        dev: &Device,
        mut all: Instances<'p, Self>,
    ) -> Result<(&'p Instance<Self>, impl PinInit<Endpoint, Error>)> {
        let number = dev.name().to_bytes().strip_prefix(b"rust-iommu.");
        let alone = match number.ok_or(ENODEV)? {
            b"0" | b"1" => true,
            b"2" | b"3" => false,
            _ => return Err(ENODEV),
        };
        let instance = all.next().ok_or(ENODEV)?;
        let log = instance.data().log.clone();
        Log::fail(&log.fail_probe)?;
        let endpoint = try_pin_init!(Endpoint {
            alone,
            place <- new_mutex!(Place::Nowhere),
            table <- new_mutex!(0),
            _count: Count::new(&log, |log| &log.endpoints),
            _: {
                Log::fail(&log.fail_endpoint)?;
            },
        });
        Ok((instance, endpoint))
    }

    fn device_group(ctx: &EndpointCtx<'_, Self>) -> Result<ARef<Group>> {
        let board = ctx.instance().data();
        Log::fail(&board.log.fail_group)?;
        match ctx.endpoint().alone {
            true => Group::new(),
            false => Ok(board.shared.clone()),
        }
    }

    fn default_domain(_ctx: &EndpointCtx<'_, Self>) -> DefaultDomain {
        DefaultDomain::Identity
    }

    fn reserved_regions(ctx: &EndpointCtx<'_, Self>, out: &mut ReservedRegions<'_>) {
        let range = IovaRange::from_len(Iova::new(FIRST), 0x1000);
        let added = range.ok_or(EINVAL).and_then(|range| {
            let (rw, kind) = (ProtFlag::Read | ProtFlag::Write, resv::Kind::Reserved);
            out.add(range, rw, kind)
        });
        if added.is_err() {
            ctx.instance().data().log.wrong.add(1, Relaxed);
        }
    }

    // It says more than it has.
    fn capable(_ctx: &EndpointCtx<'_, Self>, _cap: Cap) -> bool {
        true
    }
}

/// Moves a device, and compares where it was with what the core says.
fn attach(ctx: &AttachCtx<'_, Mock>, place: Place) -> Result {
    let log = &ctx.instance().data().log;
    let left = log.fail_attach.load(Relaxed);
    log.fail_attach.store((left - 1).max(0), Relaxed);
    if left == 1 {
        return Err(ENOSPC);
    }
    let endpoint = ctx.endpoint();
    let mut now = endpoint.place.lock();
    let old = match ctx.old() {
        Attached::None => Place::Nowhere,
        Attached::Blocked => Place::Blocked,
        Attached::Identity | Attached::Platform => Place::Direct,
        Attached::Paging(_) => Place::Paging,
    };
    if *now != old {
        log.wrong.add(1, Relaxed);
    }
    *now = place;
    Ok(())
}

pub(super) struct NoAccess;

// SAFETY: The devices do not exist.
unsafe impl StaticOps for NoAccess {
    type Kind = Blocked;
    type Driver = Mock;

    fn attach(ctx: &AttachCtx<'_, Mock>) -> Result {
        attach(ctx, Place::Blocked)
    }
}

pub(super) struct Direct;

// SAFETY: The devices do not exist.
unsafe impl StaticOps for Direct {
    type Kind = Identity;
    type Driver = Mock;

    fn attach(ctx: &AttachCtx<'_, Mock>) -> Result {
        attach(ctx, Place::Direct)
    }
}

pub(super) static DIRECT: StaticDomain<Direct> = StaticDomain::new();
pub(super) static PLAIN_BLOCKED: StaticDomain<NoAccess> = StaticDomain::new();
/// A driver that leaves out what is optional.
pub(super) static PLAIN_OPS: Ops<Mock> = Ops::new().blocked(&PLAIN_BLOCKED).identity(&DIRECT);

/// A paging domain: an array of physical addresses.
#[pin_data]
pub(super) struct Table {
    log: Arc<Log>,
    #[pin]
    pages: SpinLock<[Option<PhysAddr>; PAGES]>,
    _count: Count,
}

impl Table {
    fn slot(iova: Iova) -> usize {
        ((iova.get() - FIRST) >> 12) as usize
    }

    /// What the driver claims to have done, in place of the truth.
    fn claim(&self, truth: usize) -> Pages {
        usize::try_from(self.log.claim.load(Relaxed)).map_or(Pages::new(truth), Pages::new)
    }
}

// SAFETY: The devices do not exist.
#[vtable]
unsafe impl PagingOps for Table {
    type Driver = Mock;

    fn new(ctx: &EndpointCtx<'_, Mock>) -> Result<(Geometry, impl PinInit<Self, Error>)> {
        let log = ctx.instance().data().log.clone();
        Log::fail(&log.fail_new)?;
        let page = PageSize::from_shift(log.shift.load(Relaxed)).ok_or(EINVAL)?;
        let geometry = Geometry {
            pages: PageSizes::of(page),
            aperture: IovaRange::new(Iova::new(FIRST), Iova::new(LAST)).ok_or(EINVAL)?,
            low: None,
        };
        let this = try_pin_init!(Self {
            pages <- new_spinlock!([None; PAGES]),
            _count: Count::new(&log, |log| &log.domains),
            log,
        });
        Ok((geometry, this))
    }

    fn attach(self: Pin<&Self>, ctx: &AttachCtx<'_, Mock>) -> Result {
        attach(ctx, Place::Paging)
    }

    fn map(self: Pin<&Self>, req: &MapRequest) -> Result<(), MapError> {
        let failed = Log::fail(&self.log.fail_map);
        let done = match failed {
            Ok(()) => req.count(),
            Err(_) => self.claim(0),
        };
        let mut pages = self.pages.lock();
        for (iova, paddr) in req.pages().take(done.get()) {
            pages[Self::slot(iova)] = Some(paddr);
        }
        failed.map_err(|error| MapError {
            error,
            mapped: done,
        })
    }

    fn unmap(self: Pin<&Self>, req: &UnmapRequest, gather: &mut IotlbGather<'_>) -> Pages {
        let mut pages = self.pages.lock();
        let first = Self::slot(req.iova());
        let request = pages[first..].iter_mut().take(req.count().get());
        let present = request.map_while(Option::take).count();

        gather.add(req.range());
        self.claim(present)
    }

    fn iova_to_phys(self: Pin<&Self>, iova: Iova) -> Option<PhysAddr> {
        let page = self.pages.lock()[Self::slot(iova)];
        page.map(|paddr| paddr + (iova.get() & 0xfff) as PhysAddr)
    }

    fn iotlb_sync_map(self: Pin<&Self>, _range: IovaRange) -> Result {
        self.log.sync_maps.add(1, Relaxed);
        Ok(())
    }

    fn iotlb_sync(self: Pin<&Self>, gather: &mut IotlbGather<'_>) {
        *self.log.synced.lock() = gather.take();
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

/// What the devices and their driver are called.
const NAME: &CStr = c"rust-iommu";

/// An IOMMU with devices. The fields are dropped in the right order.
pub(super) struct Bed {
    pub(super) devices: KVec<TestDevice>,
    driver: Option<TestDriver>,
    iommu: Option<Registration<Mock>>,
    node: Node,
    pub(super) log: Arc<Log>,
}

/// Unregisters an IOMMU when a device has left its bus.
#[repr(C)]
struct Early {
    nb: bindings::notifier_block,
    dev: *mut bindings::platform_device,
    iommu: Option<Registration<Mock>>,
}

impl Early {
    extern "C" fn call(
        nb: *mut bindings::notifier_block,
        action: c_ulong,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: The notifier is the first field, and nobody else uses the value while it is on
        // the list. The device is valid.
        let (this, gone) = unsafe {
            let this = &mut *nb.cast::<Self>();
            let dev = &raw mut (*this.dev).dev;
            (this, ptr::eq(dev.cast(), data))
        };
        // CAST: Narrowing; there are less than ten of them.
        let event = action as bindings::bus_notifier_event;
        if gone && event == bindings::bus_notifier_event_BUS_NOTIFY_REMOVED_DEVICE {
            if let Some(iommu) = this.iommu.take() {
                // SAFETY: The devices have no driver, and tests keep no domain for them.
                unsafe { iommu.unregister() };
            }
        }
        0
    }
}

/// How many there have been.
static BEDS: Atomic<i32> = Atomic::new(0);

impl Bed {
    /// `devices` has numbers of devices and their PASID bits.
    pub(super) fn with(
        ops: &'static Ops<Mock>,
        max_pasids: u32,
        devices: &[(c_int, Option<u32>)],
    ) -> Result<Self> {
        let log = Log::new()?;
        let board = Board {
            log: log.clone(),
            shared: Group::new()?,
            _count: Count::new(&log, |log| &log.boards),
        };
        let iommu = Unregistered::new(Ok(board), max_pasids)?;
        let node = Node::new()?;
        // SAFETY: Nobody else sees the instance yet, and the node outlives it.
        unsafe { (*iommu.as_raw()).fwnode = node.0 };
        // One that cannot be unregistered keeps its name.
        let number = BEDS.fetch_add(1, Relaxed);
        let mut bed = Self {
            devices: KVec::new(),
            iommu: Some(iommu.register(ops, None, fmt!("rust-iommu-mock{number}"))?),
            driver: Some(TestDriver::new(NAME)?),
            node,
            log,
        };
        for &(id, bits) in devices {
            bed.add(id, bits)?;
        }
        Ok(bed)
    }

    pub(super) fn add(&mut self, id: c_int, bits: Option<u32>) -> Result {
        // Number 4 has no IOMMU.
        let node = if id == 4 {
            ptr::null_mut()
        } else {
            self.node.0
        };
        // SAFETY: The node outlives its devices.
        let device = unsafe { TestDevice::new(NAME, id, bits, node) }?;
        Ok(self.devices.push(device, GFP_KERNEL)?)
    }

    /// Returns a device, which the IOMMU driver may have claimed or not.
    pub(super) fn dev(&self, index: usize) -> Result<&'static Device<Bound>> {
        self.devices.get(index).ok_or(EINVAL)?.dev()
    }

    /// The IOMMU goes before its devices, when they have no driver any more.
    pub(super) fn unregister(&mut self) {
        self.driver = None;
        if let Some(iommu) = self.iommu.take() {
            // SAFETY: The devices have no driver, and tests keep no domain for them.
            unsafe { iommu.unregister() };
        }
    }

    /// The last device leaves its bus, and the IOMMU goes before the core hears of it.
    pub(super) fn unregister_as_device_goes(&mut self) -> Result {
        self.driver = None;
        let device = self.devices.pop().ok_or(EINVAL)?;
        let early = KBox::new(
            Early {
                nb: bindings::notifier_block {
                    notifier_call: Some(Early::call),
                    priority: c_int::MAX,
                    ..pin_init::zeroed()
                },
                dev: device.0.as_ptr().cast(),
                iommu: self.iommu.take(),
            },
            GFP_KERNEL,
        )?;
        let early = KBox::into_raw(early);
        let bus = &raw const bindings::platform_bus_type;
        // SAFETY: The notifier is valid until it is off the list of the bus.
        unsafe {
            to_result(bindings::bus_register_notifier(bus, early.cast()))?;
            drop(device);
            to_result(bindings::bus_unregister_notifier(bus, early.cast()))?;
            drop(KBox::from_raw(early));
        }
        Ok(())
    }

    /// Drops the registration of the IOMMU, which stays registered if it has devices.
    pub(super) fn drop_iommu(&mut self) {
        // The core keeps the address of the node then, so nobody else may get it.
        // SAFETY: The node is valid.
        unsafe { bindings::fwnode_handle_get(self.node.0) };
        self.iommu = None;
    }

    /// Returns the group of a device, or null.
    pub(super) fn group(&self, index: usize) -> Result<*mut bindings::iommu_group> {
        let device = self.devices.get(index).ok_or(EINVAL)?;
        // SAFETY: The device is registered.
        Ok(unsafe { (*device.0.as_ptr()).dev.iommu_group })
    }

    /// Says whether the IOMMU driver has the device.
    pub(super) fn has_iommu(&self, index: usize) -> Result<bool> {
        Ok(!self.group(index)?.is_null())
    }
}
