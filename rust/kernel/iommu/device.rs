// SPDX-License-Identifier: GPL-2.0

//! IOMMU hardware instances and their registration.

use super::{
    Driver,
    Ops, //
};
use crate::{
    bindings,
    container_of,
    device::Device,
    error::to_result,
    fmt,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    any::TypeId,
    cell::UnsafeCell,
    iter::FusedIterator,
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr, //
};

/// Holds `iommu_probe_device_lock` of the core.
///
/// The lock is not exported to modules, so everything that takes it is not generic and never
/// inlined.
pub(super) struct ProbeLock(#[allow(dead_code)] NotThreadSafe);

impl ProbeLock {
    #[inline(never)]
    pub(super) fn lock() -> Self {
        // SAFETY: The mutex is a static of the core.
        unsafe { bindings::mutex_lock(&raw mut bindings::iommu_probe_device_lock) };
        Self(NotThreadSafe)
    }
}

impl Drop for ProbeLock {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: `lock()` locked the mutex, and the guard did not leave its thread.
        unsafe { bindings::mutex_unlock(&raw mut bindings::iommu_probe_device_lock) };
    }
}

/// The part of an instance that is the same for all drivers.
///
/// # Invariants
///
/// - `raw` is initialised.
/// - Unless it is null, `next` is a header that is in the list of all registered instances.
/// - `driver` is the type of the driver whose [`Instance`] this is the header of.
#[pin_data]
struct Header {
    #[pin]
    raw: Opaque<bindings::iommu_device>,
    /// Guarded by the probe lock.
    next: UnsafeCell<*const Header>,
    driver: TypeId,
    /// How many devices are claimed. Only grows with the probe lock held.
    claimed: Atomic<usize>,
}

/// The list of all registered instances of all Rust drivers.
///
/// The core does not tell `probe_device` which of them could be meant.
struct List(UnsafeCell<*const Header>);

// SAFETY: The list is only used with the probe lock held.
unsafe impl Sync for List {}

static REGISTERED: List = List(UnsafeCell::new(ptr::null()));

impl Header {
    fn new(driver: TypeId, max_pasids: u32) -> impl PinInit<Self> {
        // INVARIANT: The list of instances ends here.
        pin_init!(Self {
            raw: Opaque::new(bindings::iommu_device {
                max_pasids,
                ..pin_init::zeroed()
            }),
            next: UnsafeCell::new(ptr::null()),
            driver,
            claimed: Atomic::new(0),
        })
    }

    /// Returns the first header of the list.
    ///
    /// # Safety
    ///
    /// The caller must hold the probe lock.
    #[inline(never)]
    unsafe fn first() -> *const Self {
        // SAFETY: The lock guards the list.
        unsafe { *REGISTERED.0.get() }
    }

    /// Makes the instance visible, first to `probe_device`, then to the core.
    ///
    /// On failure the instance is not visible.
    ///
    /// # Safety
    ///
    /// - This must be the header of an instance of the driver of `ops`, and not be registered.
    /// - `ops` must be valid, and the instance must stay where it is, until `unregister()` returns.
    /// - `parent` must be null or valid.
    #[inline(never)]
    unsafe fn register(
        &self,
        ops: *const bindings::iommu_ops,
        parent: *mut bindings::device,
        name: fmt::Arguments<'_>,
    ) -> Result {
        let raw = self.raw.get();

        // The core links each device that it probes to the device in sysfs, so this comes first.
        // SAFETY: `raw` is initialised by the type invariant, `%pA` takes a `fmt::Arguments`.
        to_result(unsafe {
            bindings::iommu_device_sysfs_add(
                raw,
                parent,
                ptr::null_mut(),
                c"%pA".as_char_ptr(),
                (&raw const name).cast::<c_void>(),
            )
        })?;

        {
            let _lock = ProbeLock::lock();
            // INVARIANT: The head of the list is null or in the list.
            // SAFETY: The lock guards the list.
            unsafe { *self.next.get() = ptr::replace(REGISTERED.0.get(), self) };
        }

        // This calls back into the driver before it returns.
        // SAFETY: `raw` is initialised and has its device in sysfs, the caller guarantees the rest.
        let ret = to_result(unsafe { bindings::iommu_device_register(raw, ops, ptr::null_mut()) });
        if ret.is_err() {
            // The core has taken the instance back, but `probe_device` may have handed it out once
            // more since. Go through the whole release: on a list node that is linked to itself it
            // may run again.
            // SAFETY: After a failure the instance is not in the list of the core.
            unsafe { bindings::INIT_LIST_HEAD(&raw mut (*raw).list) };
            // SAFETY: The instance is in the list of instances and in sysfs.
            unsafe {
                self.hide();
                self.unregister();
            }
        }
        ret
    }

    /// Takes the instance off the list, so that no more devices are claimed.
    ///
    /// A probe that found the instance has claimed its device before the lock is free.
    ///
    /// # Safety
    ///
    /// The instance must be in the list of instances.
    #[inline(never)]
    unsafe fn hide(&self) {
        let _lock = ProbeLock::lock();
        let mut link = REGISTERED.0.get();
        // SAFETY: The lock guards the list, all its headers are valid, and by the caller this one
        // is among them.
        unsafe {
            while !ptr::eq(*link, self) {
                link = (**link).next.get();
            }
            *link = *self.next.get();
        }
    }

    /// Takes the instance back. All its devices are released when this returns.
    ///
    /// # Safety
    ///
    /// The instance must be hidden and in sysfs, and its node for the list of the core must be
    /// linked. No driver uses the DMA API for a claimed device, and nobody uses a domain of it.
    #[inline(never)]
    unsafe fn unregister(&self) {
        // SAFETY: By the safety requirements.
        unsafe { bindings::iommu_device_unregister(self.raw.get()) };
        // SAFETY: By the safety requirements.
        unsafe { bindings::iommu_device_sysfs_remove(self.raw.get()) };
    }
}

/// An IOMMU, with the data that its driver keeps for it.
///
/// This is `struct iommu_device` of C. Most systems have several, but a driver for IOMMUs that
/// firmware hides may have a single one for all.
#[repr(C)]
#[pin_data]
pub struct Instance<T: Driver> {
    #[pin]
    header: Header,
    #[pin]
    data: T::Instance,
}

impl<T: Driver> Instance<T> {
    /// Returns the data of the driver.
    pub fn data(&self) -> Pin<&T::Instance> {
        ::pin_init::assert_pinned!(Instance<T>, data, T::Instance, inline);

        // SAFETY: An instance only exists inside a pinned allocation, and `data` is structurally
        // pinned.
        unsafe { Pin::new_unchecked(&self.data) }
    }

    /// Returns the instance as C knows it.
    pub(super) fn as_raw(&self) -> *mut bindings::iommu_device {
        self.header.raw.get()
    }

    /// Counts a device that is claimed. The probe lock is held.
    pub(super) fn count_claimed(&self) {
        self.header.claimed.add(1, Relaxed);
    }

    /// Counts a device that is claimed no more.
    pub(super) fn count_released(&self) {
        self.header.claimed.fetch_sub(1, Relaxed);
    }

    /// Borrows the instance that is known to C as `raw`.
    ///
    /// # Safety
    ///
    /// `raw` must be part of an `Instance<T>` that lives at least as long as the result.
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::iommu_device) -> &'a Self {
        // SAFETY: By the safety requirements.
        unsafe { &*container_of!(Opaque::cast_from(raw), Self, header.raw) }
    }
}

// SAFETY: The header belongs to no thread, the data is `Send`.
unsafe impl<T: Driver> Send for Instance<T> {}

// SAFETY: The header is only changed under locks of the core, the data is `Sync`.
unsafe impl<T: Driver> Sync for Instance<T> {}

/// The registered instances of a driver, as [`Driver::probe_device`] gets them.
///
/// # Invariants
///
/// The probe lock is held for `'p`; `next` is null or a header in the list of all instances.
pub struct Instances<'p, T: Driver> {
    next: *const Header,
    _lock: PhantomData<&'p Instance<T>>,
}

impl<T: Driver> Instances<'_, T> {
    /// Makes the view of the list.
    ///
    /// # Safety
    ///
    /// The caller must hold the probe lock for the lifetime of the result.
    pub(super) unsafe fn new() -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            // SAFETY: By the safety requirements.
            next: unsafe { Header::first() },
            _lock: PhantomData,
        }
    }
}

impl<'p, T: Driver> Iterator for Instances<'p, T> {
    type Item = &'p Instance<T>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // SAFETY: By the type invariant, the header is null or valid.
            let header = unsafe { self.next.as_ref() }?;
            // INVARIANT: By the type invariant of the header.
            // SAFETY: By the type invariant, the probe lock is held.
            self.next = unsafe { *header.next.get() };

            if header.driver == TypeId::of::<T>() {
                // SAFETY: By the type invariant of the header, this is an instance of `T`. It stays
                // registered during `'p`, because it must be taken from the list before it goes.
                return Some(unsafe { Instance::from_raw(header.raw.get()) });
            }
        }
    }
}

impl<T: Driver> FusedIterator for Instances<'_, T> {}

/// An instance that is complete, but that nobody sees yet.
///
/// Registration calls the driver back before it returns, so everything that the driver needs to
/// answer must be there before.
pub struct Unregistered<T: Driver>(Pin<KBox<Instance<T>>>);

impl<T: Driver> Unregistered<T> {
    /// Makes an instance with the data that `data` initialises.
    ///
    /// `max_pasids` is the number of PASIDs that the IOMMU supports, 0 for none.
    pub fn new(data: impl PinInit<T::Instance, Error>, max_pasids: u32) -> Result<Self> {
        KBox::try_pin_init(
            try_pin_init!(Instance::<T> {
                // INVARIANT: This is the header of an instance of `T`.
                header <- Header::new(TypeId::of::<T>(), max_pasids),
                data <- data,
            }),
            GFP_KERNEL,
        )
        .map(Self)
    }

    /// Returns the instance as C knows it.
    #[cfg(CONFIG_RUST_IOMMU_SVA_KUNIT_TEST)]
    pub(super) fn as_raw(&self) -> *mut bindings::iommu_device {
        self.0.as_raw()
    }

    /// Shows the instance to the core, which offers it all devices that have no IOMMU yet, and
    /// that firmware does not assign to another one.
    ///
    /// `name` is the name of the instance in `/sys/class/iommu`, `parent` is where its device is
    /// in sysfs.
    ///
    /// Stands for `iommu_device_sysfs_add()` and `iommu_device_register()`. May sleep, and must not
    /// be called from a callback of [`Driver`].
    ///
    /// # Errors
    ///
    /// Besides the errors of the core, every error that [`Driver::probe_device`] returned, except
    /// [`ENODEV`], and every failure to set up a default domain.
    pub fn register(
        self,
        ops: &'static Ops<T>,
        parent: Option<&Device>,
        name: fmt::Arguments<'_>,
    ) -> Result<Registration<T>> {
        let parent = parent.map_or(ptr::null_mut(), Device::as_raw);

        // SAFETY: The header is that of an instance of `T`. The box pins it, and lives until after
        // `unregister()`. `ops` lives forever, and `parent` is valid or null.
        unsafe { self.0.header.register(ops.as_raw(), parent, name) }?;

        // INVARIANT: The registration succeeded.
        Ok(Registration(ManuallyDrop::new(self.0)))
    }
}

/// The registration of an instance. Dropping it unregisters an instance without devices.
///
/// Each device that a driver has claimed holds a reference to the module of the driver, so a
/// registration that the module owns is not dropped before all devices are gone. If there are
/// devices all the same, the instance stays registered for ever, because they may be in use:
/// see [`unregister`](Self::unregister).
///
/// # Invariants
///
/// The instance is registered.
pub struct Registration<T: Driver>(ManuallyDrop<Pin<KBox<Instance<T>>>>);

impl<T: Driver> Registration<T> {
    /// Returns the instance.
    pub fn instance(&self) -> &Instance<T> {
        &self.0
    }

    /// Unregisters an instance with all its devices, which are released.
    ///
    /// # Safety
    ///
    /// No driver uses the DMA API for a device of the instance, and nobody has a domain of it. This
    /// stays so until the call returns.
    pub unsafe fn unregister(self) {
        let mut this = ManuallyDrop::new(self);

        // SAFETY: By the type invariant and the safety requirements. No device has a reference to
        // the instance afterwards, and `this` is not dropped.
        unsafe {
            this.0.header.hide();
            this.0.header.unregister();
            ManuallyDrop::drop(&mut this.0);
        }
    }
}

impl<T: Driver> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { self.0.header.hide() };

        let claimed = self.0.header.claimed.load(Relaxed);

        if claimed > 0 {
            pr_err!("an IOMMU with {claimed} devices cannot be unregistered\n");
            return;
        }

        // SAFETY: There are no devices, and will be none. `self` is not used again.
        unsafe {
            self.0.header.unregister();
            ManuallyDrop::drop(&mut self.0);
        }
    }
}
