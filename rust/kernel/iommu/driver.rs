// SPDX-License-Identifier: GPL-2.0

//! The IOMMU driver: how it claims devices and describes them.

use super::{
    Cap,
    DefaultDomain,
    DriverTypes,
    EndpointCtx,
    Group,
    Instance,
    Instances,
    PagingOps,
    ReservedRegions, //
};
use crate::{
    device::Device,
    prelude::*,
    sync::aref::ARef, //
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

impl<T: Driver> DriverTypes for T {
    type Instance = T::Instance;
    type Endpoint = T::Endpoint;
    type Paging = T::Paging;
}
