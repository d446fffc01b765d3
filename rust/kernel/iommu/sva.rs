// SPDX-License-Identifier: GPL-2.0

//! Shared virtual addressing: devices that use the addresses of a process.
//!
//! A device that supports PASIDs (process address space identifiers) can tell the IOMMU with each
//! access which address space it means. A driver binds the device to an address space and gets a
//! PASID, which it then programs into its device.
//!
//! * [`Bond`] is what C has: a handle that is bound as long as it lives.
//! * [`Context`] also has data of the driver, and tells it when the process exits.
//! * [`Bond::prefault`] and [`Bond::address`] are for devices behind an IOMMU without PASIDs.
//! * [`supported`] and [`max_pasids`] say beforehand what can be expected.
//! * [`SvaOps`] and [`BlockPasid`] are the side of the IOMMU driver.
//!
//! [`SvaOps`]: super::SvaOps
//! [`BlockPasid`]: super::BlockPasid

use super::{
    sva_domain::SvaDomain,
    sva_mirror::Mirror,
    Group, //
};
pub use super::{
    sva_error::{
        BindError,
        PrefaultError, //
    },
    sva_prefault::{
        Access,
        Prefault, //
    },
    Pasid, //
};
use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::DmaAddress,
    error::from_err_ptr,
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
        Arc, //
    },
    task::CurrentTask,
    uaccess::UserPtr, //
};
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// What an IOMMU driver and the core have for a device.
struct Offer<'a> {
    group: &'a Group,
    ops: &'a bindings::iommu_ops,
    max_pasids: u32,
}

/// Returns what there is for `dev`, or [`None`] if no IOMMU driver has it.
fn offer(dev: &Device<Bound>) -> Option<Offer<'_>> {
    let dev = dev.as_raw();

    // SAFETY: The device is valid. While it is bound it does not leave its group or its IOMMU, as
    // for `iommu_sva_bind_device()`. If the driver of that comes late, the group comes last.
    unsafe {
        // CAST: A `Group` is a transparent wrapper.
        let group = (*dev).iommu_group.cast::<Group>().as_ref()?;
        let iommu = NonNull::new((*dev).iommu)?.as_ptr();
        // A group alone is not enough: VFIO makes groups for devices without an IOMMU.
        let instance = NonNull::new((*iommu).iommu_dev)?.as_ptr();
        Some(Offer {
            group,
            ops: &*(*instance).ops,
            max_pasids: (&raw const (*iommu).max_pasids).read_volatile(),
        })
    }
}

/// Returns the number of PASIDs of the device: all its PASIDs are below it. It is 0 for no PASIDs.
///
/// PASIDs are given out for the whole system, and 0 is not among them. So 1 is as good as none.
pub fn max_pasids(dev: &Device<Bound>) -> u32 {
    offer(dev).map_or(0, |offer| offer.max_pasids)
}

/// Says whether the device can be bound to address spaces, or why not.
///
/// It binds nothing. Of the errors of [`Bond::bind`], those that will not go away are reported,
/// unless only the IOMMU driver knows; the others depend on the address space and the moment. May
/// sleep.
pub fn supported(dev: &Device<Bound>) -> Result<(), BindError> {
    let offer = offer(dev).ok_or(BindError::NoIommu)?;

    // SAFETY: The blocked domain is null or a static of the driver.
    let blocked = unsafe { offer.ops.blocked_domain.as_ref() };
    // SAFETY: A static domain has operations.
    let blocks_pasid = blocked.is_some_and(|it| unsafe { (*it.ops).set_dev_pasid }.is_some());

    if offer.max_pasids <= 1 {
        Err(BindError::NoPasids)
    } else if offer.ops.domain_alloc_sva.is_none() || !blocks_pasid {
        Err(BindError::NoDriverSupport)
    } else if offer.group.count_devices() != 1 {
        Err(BindError::SharedGroup)
    } else {
        Ok(())
    }
}

/// A bond between a device and an address space.
///
/// While it lives the device can access the address space with the [`pasid`](Self::pasid). Each
/// bond is unbound when it is dropped, and only then: also after the process has exited, when
/// the IOMMU answers no access any more. The driver must have stopped the device from using
/// the PASID before. Binding the same device to the same address space again gives one more bond
/// with the same PASID, which has to be dropped as well.
///
/// Dropping takes locks of the IOMMU core, waits for page requests and may sleep. It must not be
/// done from an [`mm_exit`](MmExit::mm_exit), nor with the `mmap` lock of the address space held.
///
/// The last time for it is the `unbind` callback of the device's driver. The driver's own data is
/// dropped later, when the core has already given the device back to its default domain; the core
/// then warns, and keeps the device from VFIO. So keep bonds where `unbind` can take them out.
///
/// An IOMMU without PASIDs may have room for one process. There, [`address`](Self::address) says
/// which bus address stands for a pointer, and the device reaches only what was
/// [prefaulted](Self::prefault); an access to anything else may stop it.
///
/// This is a reference to `struct iommu_sva` of C.
///
/// # Invariants
///
/// - `raw` is a reference that `iommu_sva_bind_device()` returned for a device that outlives `'a`.
/// - `pasid` is what `iommu_sva_get_pasid()` returns for it.
pub struct Bond<'a> {
    raw: NonNull<bindings::iommu_sva>,
    pasid: Pasid,
    _dev: PhantomData<&'a Device<Bound>>,
}

// SAFETY: Any thread may put the reference; the core has its own lock.
unsafe impl Send for Bond<'_> {}

// SAFETY: Shared references read the PASID, which does not change.
unsafe impl Sync for Bond<'_> {}

impl<'a> Bond<'a> {
    /// Binds the device to `mm`.
    ///
    /// The bond does not keep the address space in use: `mm` is only needed for the call.
    ///
    /// Stands for `iommu_sva_bind_device()`. May sleep. Must not be called from an
    /// [`mm_exit`](MmExit::mm_exit).
    pub fn bind(dev: &'a Device<Bound>, mm: &MmWithUser) -> Result<Self, BindError> {
        supported(dev)?;

        // SAFETY: The device is valid, and `mm` has a user during the call.
        let raw = unsafe { bindings::iommu_sva_bind_device(dev.as_raw(), mm.as_raw()) };
        let raw = from_err_ptr(raw).map_err(|e| {
            // SAFETY: `mm` is valid.
            BindError::from_bind(e, unsafe { bindings::arch_pgtable_dma_compat(mm.as_raw()) })
        })?;
        let raw = NonNull::new(raw).ok_or(BindError::NoIommu)?;

        // SAFETY: The reference was returned above. A number that is not a PASID cannot be: the
        // core gives out numbers from 1 to the limit of the device.
        let pasid = Pasid::new(unsafe { bindings::iommu_sva_get_pasid(raw.as_ptr()) });
        // SAFETY: As above; the device of a handle does not change.
        let owner = unsafe { (*raw.as_ptr()).dev };
        match pasid {
            // INVARIANT: The reference is given to the bond. Its device is `dev`, which is bound,
            // and thus there, for `'a`.
            Some(pasid) if ptr::eq(owner, dev.as_raw()) => Ok(Self {
                raw,
                pasid,
                _dev: PhantomData,
            }),
            _ => {
                // The group is not shared, so this is a handle that a device which has left the
                // group never gave back. It stays, because ours is not the last reference.
                // SAFETY: The reference was returned above.
                unsafe { bindings::iommu_sva_unbind_device(raw.as_ptr()) };
                Err(BindError::SharedGroup)
            }
        }
    }

    /// Binds the device to the address space of the current task.
    ///
    /// [`bind`](Self::bind) has the rules.
    pub fn bind_current(dev: &'a Device<Bound>, current: &CurrentTask) -> Result<Self, BindError> {
        Self::bind(dev, current.mm().ok_or(BindError::NoMm)?)
    }

    /// Returns the PASID. It belongs to the address space until the last bond is dropped, even
    /// after the process has exited.
    ///
    /// Stands for `iommu_sva_get_pasid()`.
    #[inline]
    pub fn pasid(&self) -> Pasid {
        self.pasid
    }

    /// Returns the window of the process, if the IOMMU has that in place of PASIDs.
    pub(super) fn mirror(&self) -> Option<&Arc<Mirror>> {
        // SAFETY: By the type invariants the handle is valid; it keeps its domain.
        unsafe { SvaDomain::of((*self.raw.as_ptr()).handle.domain) }?.mirror()
    }

    /// Returns the bus address with which the device reaches the address `ptr` of the process.
    ///
    /// It is the same with PASIDs. Where there are none, [`None`] says that the device does not
    /// reach it, whatever is there.
    pub fn address(&self, ptr: UserPtr) -> Option<DmaAddress> {
        // CAST: An address of the process.
        let ptr = ptr.as_const_ptr().addr();
        match self.mirror() {
            // CAST: What a `dma_addr_t` does not hold is no bus address.
            Some(mirror) => Some(mirror.address(ptr)?.get() as DmaAddress),
            None => Some(ptr as DmaAddress),
        }
    }

    /// Makes the `len` bytes from `ptr` on reachable for the device, as long as the result lives
    /// and the process keeps the memory.
    ///
    /// The pages are faulted in and pinned, and count as locked memory of the process. When the
    /// process unmaps any of them, gives them back, or exits, the device does not reach these any
    /// more, nor most others; [`Prefault::is_live`] tells. The driver has to expect that.
    ///
    /// May sleep; the caller must not hold the `mmap` lock of the process. With PASIDs the device
    /// asks for pages itself, and nothing is done.
    pub fn prefault(
        &self,
        ptr: UserPtr,
        len: usize,
        access: Access,
    ) -> Result<Prefault, PrefaultError> {
        // CAST: An address of the process.
        Prefault::new(self.mirror(), ptr.as_const_ptr().addr(), len, access)
    }

    /// Returns the handle as C knows it.
    #[cfg(CONFIG_RUST_IOMMU_SVA_KUNIT_TEST)]
    pub(super) fn as_raw(&self) -> *mut bindings::iommu_sva {
        self.raw.as_ptr()
    }
}

impl Drop for Bond<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours, and the device is still there.
        unsafe { bindings::iommu_sva_unbind_device(self.raw.as_ptr()) };
    }
}

/// What a driver does when an address space that it has bound comes to its end.
pub trait MmExit: Send + Sync + 'static {
    /// The process is gone. Stops the device from using `pasid`.
    ///
    /// Called at most once for each [`Context`], in process context, and never once dropping the
    /// context has begun. [`Context::pasid`] is [`None`] already. The pages of the process are
    /// freed when this returns. The IOMMU driver normally stops answering for the PASID only
    /// after this, because the notifier that is registered last is called first, but a driver
    /// must not count on it.
    ///
    /// May sleep, but it makes the exit of a process wait, and perhaps the OOM killer. A driver
    /// that needs long to stop its device is better off with a [`Bond`] alone: the IOMMU answers
    /// no access after the exit, and the driver can stop the device in its own time.
    ///
    /// # Deadlocks
    ///
    /// The rules of [`Release::release`] apply: do not bind, do not drop a [`Bond`] or a
    /// [`Context`], and do not drop the last user of another address space.
    ///
    /// It runs wherever the last user of the address space is dropped, and that is in many places.
    /// So if it takes a lock, nobody may drop a user of an address space, or the context, while
    /// they hold that lock.
    fn mm_exit(self: Pin<&Self>, dev: &Device, pasid: Pasid);
}

/// What the notifier of a context needs.
#[pin_data]
struct Watch<T: MmExit> {
    // Counted, because a context that is leaked may outlive the device.
    dev: ARef<Device>,
    pasid: Pasid,
    #[pin]
    data: T,
}

impl<T: MmExit> Watch<T> {
    fn data<'a>(self: Pin<&'a Self>) -> Pin<&'a T> {
        ::pin_init::assert_pinned!(Watch<T>, data, T, inline);

        // SAFETY: `data` is structurally pinned.
        unsafe { self.map_unchecked(|this| &this.data) }
    }
}

impl<T: MmExit> Release for Watch<T> {
    fn release(self: Pin<&Self>, _mm: &Mm) {
        self.data().mm_exit(&self.dev, self.pasid);
    }
}

/// A [`Bond`] with data of the driver, which learns when the process exits.
///
/// This is the interface that the kernel had from 5.2 to 5.7. Dropping it does, in this order:
///
/// 1. makes sure that [`MmExit::mm_exit`] will not run any more, or waits for its end;
/// 2. drops the data, whose `Drop` may stop the device;
/// 3. drops the bond. This is needed after `mm_exit` too.
///
/// Dropping may sleep, and must not be done from an [`MmExit::mm_exit`].
///
/// # Examples
///
/// ```
/// use kernel::{
///     device::{
///         Bound,
///         Device, //
///     },
///     iommu::sva::*,
///     task::CurrentTask, //
/// };
///
/// struct Queue {
///     number: u32,
/// }
///
/// impl MmExit for Queue {
///     fn mm_exit(self: Pin<&Self>, dev: &Device, pasid: Pasid) {
///         dev_info!(dev, "stopping queue {} of PASID {}\n", self.number, pasid.get());
///     }
/// }
///
/// fn open<'a>(dev: &'a Device<Bound>, current: &CurrentTask) -> Result<Context<'a, Queue>> {
///     let mm = current.mm().ok_or(EINVAL)?;
///     let context = Context::bind(dev, mm, Ok(Queue { number: 1 }));
///     Ok(context.inspect_err(|e| dev_warn!(dev, "no shared addresses: {e}\n"))?)
/// }
/// # let _ = open;
/// ```
pub struct Context<'a, T: MmExit> {
    // The order of the fields is the order in which they are dropped.
    watch: Pin<KBox<Notifier<Watch<T>>>>,
    bond: Bond<'a>,
}

impl<'a, T: MmExit> Context<'a, T> {
    /// Binds the device to `mm`, with the data that `data` initialises.
    ///
    /// May sleep; the caller must not hold the `mmap` lock of `mm`. Must not be called from an
    /// [`MmExit::mm_exit`]. If it fails nothing is bound.
    pub fn bind(
        dev: &'a Device<Bound>,
        mm: &MmWithUser,
        data: impl PinInit<T, Error>,
    ) -> Result<Self, BindError> {
        let bond = Bond::bind(dev, mm)?;
        let pasid = bond.pasid();

        // The IOMMU driver may have registered a notifier when the device was bound. C calls the
        // last one first, so that `mm_exit` runs before the PASID is cut off.
        let watch = try_pin_init!(Watch {
            dev: dev.into(),
            pasid,
            data <- data,
        });
        let watch = KBox::pin_init(Notifier::new(mm, watch), GFP_KERNEL)?;
        Ok(Self { watch, bond })
    }

    /// Returns the PASID, or [`None`] once the process is exiting.
    pub fn pasid(&self) -> Option<Pasid> {
        (!self.watch.is_released()).then_some(self.bond.pasid())
    }

    /// Returns the data.
    pub fn data(&self) -> Pin<&T> {
        self.watch.as_ref().data().data()
    }
}
