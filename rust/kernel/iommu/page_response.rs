// SPDX-License-Identifier: GPL-2.0

//! Page requests as an IOMMU driver sees them.

use super::{
    page_request::{
        Port,
        Queue,
        Request,
        Response, //
    },
    Driver,
    EndpointCtx,
    Ops, //
};
use crate::{
    bindings,
    prelude::*,
    sync::Arc,
    task::might_sleep, //
};

/// An IOMMU driver whose devices may ask for pages. See [`page_request`].
///
/// The driver says so with [`Ops::page_requests`].
///
/// [`page_request`]: super::page_request
pub trait PageRequests: Driver {
    /// Sends the device the answer for the group of `request`, which is the last one of the group.
    ///
    /// May sleep, but must not [report](Port::report) to the same device.
    fn respond(ctx: &EndpointCtx<'_, Self>, request: &Request, response: Response);
}

impl<T: PageRequests> EndpointCtx<'_, T> {
    /// Lets the device ask for pages with the PASIDs that are set from now on.
    ///
    /// Call this before the first one, for example from [`Driver::probe_finalize`]. May sleep. The
    /// port closes by itself when the device is released.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if the device has a port, [`ENODEV`] without [`Ops::page_requests`].
    pub fn accept_page_requests(&self, queue: Arc<Queue>) -> Result<Arc<Port>> {
        // SAFETY: The device is claimed by the type invariant. The core will release it by
        // `release_device_callback()`, which closes the port.
        let port = unsafe { Port::new(self.device(), queue) }?;

        // C took the device only once, so there was no port.
        self.port().populate(port.clone());
        Ok(port)
    }
}

impl<T: PageRequests> Ops<T> {
    /// Lets the devices of the driver ask for pages.
    #[must_use]
    pub const fn page_requests(mut self) -> Self {
        // INVARIANT: The callback is one for `T`.
        self.0.page_response = Some(Self::page_response_callback);
        self
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call; `event` must be
    /// a request that was reported, and `answer` an answer.
    unsafe extern "C" fn page_response_callback(
        dev: *mut bindings::device,
        event: *mut bindings::iopf_fault,
        answer: *mut bindings::iommu_page_response,
    ) {
        might_sleep();

        // SAFETY: The core answers before the device leaves its queue, and it does so before it is
        // released.
        let ctx = unsafe { EndpointCtx::<T>::new(dev) };
        // SAFETY: Both are valid during the call.
        let (request, response) = unsafe {
            (
                Request::from_raw(&*event),
                Response::from_raw((*answer).code),
            )
        };
        if let Some(request) = request {
            T::respond(&ctx, &request, response);
        }
    }
}
