// SPDX-License-Identifier: GPL-2.0

//! The IOMMU driver: how it claims devices and describes them.

#[cfg(CONFIG_IOMMU_IOPF)]
use super::page_request::Port;
use super::{
    domain::{
        IdentityKind,
        PagingDomain, //
    },
    Blocked,
    Cap,
    DefaultDomain,
    Group,
    Instance,
    Instances,
    PagingOps,
    ReservedRegions,
    StaticDomain,
    StaticOps, //
};
#[cfg(CONFIG_IOMMU_IOPF)]
use crate::sync::{
    Arc,
    SetOnce, //
};
use crate::{
    bindings,
    device::Device,
    module::this_module,
    prelude::*,
    sync::aref::ARef,
    task::might_sleep,
    types::ForeignOwnable, //
};
use core::{
    marker::PhantomData,
    ptr, //
};

/// An IOMMU driver.
///
/// The life of a device goes through the callbacks in the order in which they stand here. All but
/// [`capable`](Self::capable) may sleep.
///
/// # Examples
///
/// A driver that gives each device a group of its own and can block it, but cannot map anything.
///
/// ```no_run
/// use kernel::{
///     device::Device,
///     io::PhysAddr,
///     iommu::*,
///     sync::aref::ARef, //
/// };
///
/// struct NullIommu;
///
/// struct Window(IovaRange);
///
/// static BLOCKED: StaticDomain<NoAccess> = StaticDomain::new();
/// static OPS: Ops<NullIommu> = Ops::new().blocked(&BLOCKED);
///
/// #[vtable]
/// impl Driver for NullIommu {
///     type Instance = Window;
///     type Endpoint = ARef<Group>;
///     type Paging = Empty;
///
///     fn probe_device<'p>(
///         _dev: &Device,
///         mut all: Instances<'p, Self>,
///     ) -> Result<(&'p Instance<Self>, impl PinInit<ARef<Group>, Error>)> {
///         Ok((all.next().ok_or(ENODEV)?, Ok(Group::new()?)))
///     }
///
///     fn device_group(ctx: &EndpointCtx<'_, Self>) -> Result<ARef<Group>> {
///         Ok((*ctx.endpoint()).clone())
///     }
///
///     fn reserved_regions(_ctx: &EndpointCtx<'_, Self>, _out: &mut ReservedRegions<'_>) {}
///
///     fn capable(_ctx: &EndpointCtx<'_, Self>, _cap: Cap) -> bool {
///         false
///     }
/// }
///
/// struct NoAccess;
///
/// // SAFETY: This IOMMU does not let any device reach anything.
/// unsafe impl StaticOps for NoAccess {
///     type Kind = Blocked;
///     type Driver = NullIommu;
///
///     fn attach(_ctx: &AttachCtx<'_, NullIommu>) -> Result {
///         Ok(())
///     }
/// }
///
/// struct Empty;
///
/// // SAFETY: As above.
/// #[vtable]
/// unsafe impl PagingOps for Empty {
///     type Driver = NullIommu;
///
///     fn new(
///         ctx: &EndpointCtx<'_, NullIommu>,
///     ) -> Result<(Geometry, impl PinInit<Self, Error>)> {
///         let pages = PageSizes::of(PageSize::from_shift(12).ok_or(EINVAL)?);
///         let aperture = ctx.instance().data().0;
///         Ok((Geometry { pages, aperture, low: None }, Ok(Self)))
///     }
///
///     fn attach(self: Pin<&Self>, ctx: &AttachCtx<'_, NullIommu>) -> Result {
///         if let Attached::Blocked = ctx.old() {
///             dev_info!(ctx.device(), "back from VFIO\n");
///         }
///         Ok(())
///     }
///
///     fn map(self: Pin<&Self>, _req: &MapRequest) -> Result<(), MapError> {
///         Err(ENOSPC.into())
///     }
///
///     fn unmap(self: Pin<&Self>, _req: &UnmapRequest, _gather: &mut IotlbGather<'_>) -> Pages {
///         Pages::new(0)
///     }
///
///     fn iova_to_phys(self: Pin<&Self>, _iova: Iova) -> Option<PhysAddr> {
///         None
///     }
/// }
///
/// # fn no_run() -> Result<Registration<NullIommu>> {
/// let window = IovaRange::from_len(Iova::new(0), 1 << 31).ok_or(EINVAL)?;
/// Unregistered::new(Ok(Window(window)), 0)?.register(&OPS, None, fmt!("null"))
/// # }
/// ```
#[vtable]
pub trait Driver: Sized + Send + Sync + 'static {
    /// What the driver keeps for each IOMMU.
    type Instance: Send + Sync + 'static;

    /// What the driver keeps for each device that it has claimed.
    type Endpoint: Send + Sync + 'static;

    /// The domain that translates addresses with a table.
    type Paging: PagingOps<Driver = Self>;

    /// Claims `dev` for one of the instances, or returns [`ENODEV`] to leave it to others.
    ///
    /// Every other error makes the registration of an instance fail, so a driver should not return
    /// one for the sake of one odd device.
    ///
    /// The lock of all probes is held: no two calls run at the same time. `dev` need not have a
    /// driver of its own.
    fn probe_device<'p>(
        dev: &Device,
        all: Instances<'p, Self>,
    ) -> Result<(&'p Instance<Self>, impl PinInit<Self::Endpoint, Error>)>;

    /// Returns the group of the device, a new one or that of other devices.
    ///
    /// The lock of all probes is held.
    fn device_group(ctx: &EndpointCtx<'_, Self>) -> Result<ARef<Group>>;

    /// Says which default domain the device needs. All devices of a group should agree.
    ///
    /// The mutex of the group is held.
    fn default_domain(_ctx: &EndpointCtx<'_, Self>) -> DefaultDomain {
        DefaultDomain::Any
    }

    /// Adds the addresses that no user of the device may map as it likes.
    ///
    /// C gives this callback no way to fail; a region that could not be added is one that users
    /// will map, so say so in the log.
    fn reserved_regions(ctx: &EndpointCtx<'_, Self>, out: &mut ReservedRegions<'_>);

    /// Runs when the device is in its group and attached to the default domain.
    ///
    /// No lock is held.
    fn probe_finalize(_ctx: &EndpointCtx<'_, Self>) {}

    /// Says whether the driver has a capability for the device.
    fn capable(ctx: &EndpointCtx<'_, Self>, cap: Cap) -> bool;

    /// Lets the device go: it must not use any paging domain afterwards, for the core may free it.
    ///
    /// Other devices of the group are not affected. The endpoint is dropped right after. The mutex
    /// of the group is held, unless the device never got that far.
    fn release_device(_ctx: &EndpointCtx<'_, Self>) {}
}

/// What there is for each claimed device.
#[pin_data]
struct Claimed<T: Driver> {
    #[pin]
    endpoint: T::Endpoint,
    /// Where its page requests enter the core, from when the driver wants them.
    #[cfg(CONFIG_IOMMU_IOPF)]
    port: SetOnce<Arc<Port>>,
}

/// A device that a driver has claimed, for the time of a callback.
///
/// # Invariants
///
/// The core has IOMMU data for `dev`, in which `iommu_dev` is part of an [`Instance<T>`] that was
/// registered with an [`Ops<T>`], and `priv` is a `Pin<KBox<Claimed<T>>>`. All of this stays so
/// during `'a`.
pub struct EndpointCtx<'a, T: Driver> {
    dev: &'a Device,
    _driver: PhantomData<&'a T>,
}

impl<'a, T: Driver> EndpointCtx<'a, T> {
    /// Makes the context for a callback.
    ///
    /// # Safety
    ///
    /// `dev` must be a valid device that a `probe_device` callback of [`Ops<T>`] has claimed, and
    /// that is not released as long as the result is in use.
    pub(super) unsafe fn new(dev: *mut bindings::device) -> Self {
        // INVARIANT: The `probe_device` callback has set up `priv`, and the core has set
        // `iommu_dev` to what it returned. Both stay until the device is released.
        Self {
            // SAFETY: By the safety requirements.
            dev: unsafe { Device::from_raw(dev) },
            _driver: PhantomData,
        }
    }

    /// Makes the context for a callback of a domain.
    ///
    /// Returns [`EINVAL`] if the device does not belong to the driver that has the domain.
    ///
    /// # Safety
    ///
    /// - `domain` must be a domain of the driver `T`.
    /// - `dev` must be valid and have an IOMMU as long as the result is in use. The mutex of the
    ///   group, which the core holds, guarantees this.
    pub(super) unsafe fn of_domain(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
    ) -> Result<Self> {
        // SAFETY: A device with an IOMMU has these pointers.
        let ops = unsafe { &*(*(*(*dev).iommu).iommu_dev).ops };

        // SAFETY: By the safety requirements, the domain is valid.
        let owner = unsafe { (*domain).owner };

        // A domain is bound to one `Ops<T>`, by its owner or by the builder of the operations. So
        // a device with the same operations is one that the driver `T` has claimed.
        if domain != ops.blocked_domain && domain != ops.identity_domain && !ptr::eq(owner, ops) {
            return Err(EINVAL);
        }

        // SAFETY: `dev` is claimed, as said above, and the mutex keeps it so.
        Ok(unsafe { Self::new(dev) })
    }

    /// Returns the device. It need not be bound to a driver.
    pub fn device(&self) -> &'a Device {
        self.dev
    }

    fn claimed(&self) -> Pin<&'a Claimed<T>> {
        // SAFETY: By the type invariant.
        unsafe {
            let data = bindings::dev_iommu_priv_get(self.dev.as_raw());
            Pin::<KBox<Claimed<T>>>::borrow(data)
        }
    }

    /// Returns what the driver keeps for the device.
    pub fn endpoint(&self) -> Pin<&'a T::Endpoint> {
        // SAFETY: The endpoint is structurally pinned.
        unsafe { self.claimed().map_unchecked(|claimed| &claimed.endpoint) }
    }

    /// Returns where the page requests of the device enter the core, once there is a port.
    #[cfg(CONFIG_IOMMU_IOPF)]
    pub(super) fn port(&self) -> &'a SetOnce<Arc<Port>> {
        &Pin::get_ref(self.claimed()).port
    }

    /// Returns the instance that the device was claimed for.
    pub fn instance(&self) -> &'a Instance<T> {
        // SAFETY: By the type invariant.
        unsafe { Instance::from_raw((*(*self.dev.as_raw()).iommu).iommu_dev) }
    }

    /// Returns the operations that the instance was registered with.
    pub(super) fn ops(&self) -> &'a bindings::iommu_ops {
        // SAFETY: By the type invariant. The operations of an instance live forever and do not
        // change.
        unsafe { &*(*self.instance().as_raw()).ops }
    }
}

/// The operations of an IOMMU driver: `struct iommu_ops` of C.
///
/// It must be a `static`, because the core tells drivers apart by its address.
///
/// # Invariants
///
/// - All callbacks are those of this type, for `T`.
/// - `blocked_domain` is null or a [`StaticDomain`] of kind [`Blocked`] for the driver `T`.
/// - `identity_domain` is null or a [`StaticDomain`] of kind [`Identity`] or [`Platform`] for the
///   driver `T`.
///
/// [`Identity`]: super::Identity
/// [`Platform`]: super::Platform
#[repr(transparent)]
pub struct Ops<T: Driver>(pub(super) bindings::iommu_ops, PhantomData<T>);

// SAFETY: Nothing changes the operations after their construction.
unsafe impl<T: Driver> Sync for Ops<T> {}

impl<T: Driver> Ops<T> {
    /// Makes the operations of `T`, without static domains.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        // INVARIANT: The callbacks are right, and the domains are null.
        Self(
            bindings::iommu_ops {
                capable: Some(Self::capable_callback),
                domain_alloc_paging: Some(PagingDomain::<T>::alloc_callback),
                probe_device: Some(Self::probe_device_callback),
                release_device: Some(Self::release_device_callback),
                probe_finalize: if T::HAS_PROBE_FINALIZE {
                    Some(Self::probe_finalize_callback)
                } else {
                    None
                },
                device_group: Some(Self::device_group_callback),
                get_resv_regions: Some(Self::get_resv_regions_callback),
                def_domain_type: if T::HAS_DEFAULT_DOMAIN {
                    Some(Self::def_domain_type_callback)
                } else {
                    None
                },
                owner: this_module::<T::OwnerModule>().as_ptr(),
                ..pin_init::zeroed()
            },
            PhantomData,
        )
    }

    /// Sets the domain in which a device can reach nothing.
    #[must_use]
    pub const fn blocked<D>(mut self, domain: &'static StaticDomain<D>) -> Self
    where
        D: StaticOps<Kind = Blocked, Driver = T>,
    {
        // INVARIANT: By the bound of `D`.
        self.0.blocked_domain = domain.as_raw();
        self
    }

    /// Sets the domain that the core attaches where it wants no translation.
    #[must_use]
    pub const fn identity<D>(mut self, domain: &'static StaticDomain<D>) -> Self
    where
        D: StaticOps<Driver = T>,
        D::Kind: IdentityKind,
    {
        // INVARIANT: By the bound of `D`.
        self.0.identity_domain = domain.as_raw();
        self
    }

    /// Returns the operations as C knows them.
    pub(super) const fn as_raw(&'static self) -> *const bindings::iommu_ops {
        &raw const self.0
    }

    /// # Safety
    ///
    /// For `iommu_init_device()` of the core, which holds the probe lock: `dev` must be valid and
    /// have IOMMU data, but not be claimed.
    unsafe extern "C" fn probe_device_callback(
        dev: *mut bindings::device,
    ) -> *mut bindings::iommu_device {
        might_sleep();

        let probe = || {
            // SAFETY: The core passes a valid device.
            let device = unsafe { Device::from_raw(dev) };
            // SAFETY: The core holds the probe lock during the call.
            let all = unsafe { Instances::new() };

            let (instance, endpoint) = T::probe_device(device, all)?;
            let claimed = KBox::pin_init(
                try_pin_init!(Claimed::<T> {
                    endpoint <- endpoint,
                    #[cfg(CONFIG_IOMMU_IOPF)]
                    port: SetOnce::new(),
                }),
                GFP_KERNEL,
            )?;
            // SAFETY: The core holds the probe lock and has made IOMMU data for `dev`. The device
            // is claimed from here on, and `release_device_callback()` frees the box.
            unsafe { bindings::dev_iommu_priv_set(dev, claimed.into_foreign()) };
            instance.count_claimed();
            Ok(instance.as_raw())
        };
        probe().unwrap_or_else(Error::to_ptr)
    }

    /// # Safety
    ///
    /// For the core, once for each device that was claimed: no other callback for `dev` may run
    /// during or after this one, and the IOMMU data must be freed next.
    unsafe extern "C" fn release_device_callback(dev: *mut bindings::device) {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed until this returns.
        let ctx = unsafe { EndpointCtx::<T>::new(dev) };
        let instance = ctx.instance();
        T::release_device(&ctx);
        #[cfg(CONFIG_IOMMU_IOPF)]
        if let Some(port) = ctx.port().as_ref() {
            // SAFETY: The device is released after this callback.
            unsafe { port.close() };
        }

        // `priv` keeps its old value: it may only be set under the probe lock, which is not held
        // here, and nobody reads it any more.
        // SAFETY: `probe_device_callback()` set the value, and this is the only call that takes it.
        drop(unsafe { Pin::<KBox<Claimed<T>>>::from_foreign(bindings::dev_iommu_priv_get(dev)) });
        instance.count_released();
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call.
    unsafe extern "C" fn probe_finalize_callback(dev: *mut bindings::device) {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed, and does not release it now.
        T::probe_finalize(&unsafe { EndpointCtx::new(dev) });
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call.
    unsafe extern "C" fn device_group_callback(
        dev: *mut bindings::device,
    ) -> *mut bindings::iommu_group {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed, and does not release it now.
        match T::device_group(&unsafe { EndpointCtx::new(dev) }) {
            // The core takes over the reference.
            Ok(group) => ARef::into_raw(group).as_ptr().cast(),
            Err(error) => error.to_ptr(),
        }
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call; `list` must be a
    /// list of regions that nobody else uses.
    unsafe extern "C" fn get_resv_regions_callback(
        dev: *mut bindings::device,
        list: *mut bindings::list_head,
    ) {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed, and does not release it now.
        let ctx = unsafe { EndpointCtx::new(dev) };
        // SAFETY: The core lends its list for the call.
        let mut out = unsafe { ReservedRegions::from_raw(list) };
        T::reserved_regions(&ctx, &mut out);
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call.
    unsafe extern "C" fn def_domain_type_callback(dev: *mut bindings::device) -> c_int {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed, and does not release it now.
        T::default_domain(&unsafe { EndpointCtx::new(dev) }).as_raw()
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call.
    unsafe extern "C" fn capable_callback(
        dev: *mut bindings::device,
        cap: bindings::iommu_cap,
    ) -> bool {
        // SAFETY: The core calls this for a device that is claimed, and does not release it now.
        T::capable(&unsafe { EndpointCtx::new(dev) }, Cap::from_raw(cap))
    }
}

/// Says whether devices get the domain without translation unless somebody asks for another one.
///
/// Stands for `iommu_default_passthrough()`.
pub fn default_passthrough() -> bool {
    // SAFETY: The function reads a variable.
    unsafe { bindings::iommu_default_passthrough() }
}
