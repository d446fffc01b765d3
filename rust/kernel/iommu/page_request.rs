// SPDX-License-Identifier: GPL-2.0

//! Page requests: what a device sends when an address of a process has no page.
//!
//! A device that uses the addresses of a process meets pages that are not in memory. It then asks
//! the IOMMU for the page and waits for the answer. On PCI this is the Page Request Interface.
//!
//! * The IOMMU driver [reports](Port::report) the request to the core.
//! * The core handles it like a page fault of the process, in a worker of the [`Queue`].
//! * [`PageRequests::respond`] of the IOMMU driver sends the answer to the device.
//!
//! C calls all this an I/O page fault.
//!
//! [`PageRequests::respond`]: super::PageRequests::respond

use super::{
    Iova,
    Pasid, //
};
use crate::{
    bindings,
    device::Device,
    error::to_result,
    impl_flags,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
    task::might_sleep, //
};
use core::ptr::NonNull;

/// The number that ties requests of a device together, and to their answer.
///
/// PCIe has 9 bits for this Page Request Group Index, other buses have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group(u32);

impl Group {
    /// Takes the number that the device sent.
    #[inline]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl_flags!(
    /// What the device wants to do with the page: the `IOMMU_FAULT_PERM` family of C.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Access(u32);

    /// One flag of an [`Access`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum AccessFlag {
        /// Read it.
        Read = bindings::IOMMU_FAULT_PERM_READ,
        /// Write it.
        Write = bindings::IOMMU_FAULT_PERM_WRITE,
        /// Fetch instructions.
        Execute = bindings::IOMMU_FAULT_PERM_EXEC,
        /// Do so with the rights of the kernel.
        Privileged = bindings::IOMMU_FAULT_PERM_PRIV,
    }
);

/// A request of a device for a page: `struct iommu_fault_page_request` of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whose address it is.
    pub pasid: Pasid,
    /// Which requests get one answer.
    pub group: Group,
    /// The address of the page.
    pub addr: Iova,
    /// What the device wants to do.
    pub access: Access,
    /// Says that the group is complete, and that the device waits for the answer.
    pub last: bool,
    /// What the IOMMU driver wants to find again when it answers.
    pub private: [u64; 2],
}

impl Request {
    /// Takes the request that the core answers, unless a driver without PASIDs reported it.
    pub(super) fn from_raw(event: &bindings::iopf_fault) -> Option<Self> {
        let prm = &event.fault.prm;

        Some(Self {
            pasid: Pasid::new(prm.pasid)?,
            group: Group::new(prm.grpid),
            addr: Iova::new(prm.addr),
            access: Access(prm.perm & Access::all_bits()),
            last: prm.flags & bindings::IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE != 0,
            private: prm.private_data,
        })
    }

    fn to_raw(self) -> bindings::iopf_fault {
        let last = match self.last {
            true => bindings::IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE,
            false => 0,
        };

        bindings::iopf_fault {
            fault: bindings::iommu_fault {
                type_: bindings::iommu_fault_type_IOMMU_FAULT_PAGE_REQ,
                prm: bindings::iommu_fault_page_request {
                    flags: bindings::IOMMU_FAULT_PAGE_REQUEST_PASID_VALID | last,
                    pasid: self.pasid.get(),
                    grpid: self.group.get(),
                    perm: self.access.into(),
                    addr: self.addr.get(),
                    private_data: self.private,
                },
            },
            ..pin_init::zeroed()
        }
    }
}

/// The answer to the requests of a group: `enum iommu_page_response_code` of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The pages are there. The device shall try again.
    Success,
    /// One of the pages cannot be had. The device shall not try again.
    Invalid,
    /// Something else is wrong. The device shall ask for nothing more, if it can.
    Failure,
}

impl Response {
    pub(super) fn from_raw(code: u32) -> Self {
        match code {
            bindings::iommu_page_response_code_IOMMU_PAGE_RESP_SUCCESS => Self::Success,
            bindings::iommu_page_response_code_IOMMU_PAGE_RESP_INVALID => Self::Invalid,
            _ => Self::Failure,
        }
    }
}

/// Where the core keeps and handles the requests of one or more devices: `struct iopf_queue` of C.
///
/// # Invariants
///
/// The pointer comes from `iopf_queue_alloc()`.
pub struct Queue(NonNull<bindings::iopf_queue>);

// SAFETY: The functions of the queue lock it.
unsafe impl Send for Queue {}

// SAFETY: As above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Makes a queue. The workers have the name in theirs. May sleep.
    ///
    /// Returns `ENOMEM` if there is no memory. Stands for `iopf_queue_alloc()`.
    pub fn new(name: &CStr) -> Result<Arc<Self>> {
        // SAFETY: The name is a C string, which is copied.
        let raw = unsafe { bindings::iopf_queue_alloc(name.as_char_ptr()) };

        // INVARIANT: By the line above.
        Ok(Arc::new(
            Self(NonNull::new(raw).ok_or(ENOMEM)?),
            GFP_KERNEL,
        )?)
    }

    /// Forgets the requests of groups that are not complete.
    ///
    /// For when the hardware lost requests: the last one of a group may be among them, and a later
    /// group may have the same number. May sleep. Stands for `iopf_queue_discard_partial()`.
    pub fn discard_partial(&self) {
        // SAFETY: By the type invariant. It only fails without a queue.
        unsafe { bindings::iopf_queue_discard_partial(self.0.as_ptr()) };
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Each device in the queue has a `Port` that owns a
        // reference until the device is taken out.
        unsafe { bindings::iopf_queue_free(self.0.as_ptr()) };
    }
}

/// Where the requests of a device enter the core.
///
/// The IOMMU driver may keep it for as long as it likes, for example in a table that its interrupt
/// thread looks requester IDs up in. Dropping it may sleep.
#[pin_data]
pub struct Port {
    queue: Arc<Queue>,
    #[pin]
    open: Mutex<Open>,
}

/// # Invariants
///
/// - The device, if there is one, is claimed by a driver with a `page_response` callback and is in
///   the queue of the port.
/// - A PASID that is not in `pasids` has no requests under way.
struct Open {
    dev: Option<ARef<Device>>,
    pasids: KVec<Pasid>,
}

impl Port {
    /// Puts a device in the queue. Stands for `iopf_queue_add_device()`.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if it is in a queue, [`ENODEV`] if the driver does not answer page requests.
    ///
    /// # Safety
    ///
    /// `dev` must be claimed, and `close()` must be called before it is released.
    pub(super) unsafe fn new(dev: &Device, queue: Arc<Queue>) -> Result<Arc<Self>> {
        let this = Arc::pin_init(
            // INVARIANT: There is no device yet.
            pin_init!(Self {
                queue,
                open <- new_mutex!(Open {
                    dev: None,
                    pasids: KVec::new(),
                }),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The device is claimed by the safety requirements, the queue is valid.
        to_result(unsafe { bindings::iopf_queue_add_device(this.queue.0.as_ptr(), dev.as_raw()) })?;
        // INVARIANT: It is in the queue, and C has looked for the callback.
        this.open.lock().dev = Some(dev.into());
        Ok(this)
    }

    /// Lets the core handle requests with `pasid` from now on.
    pub(super) fn admit(&self, pasid: Pasid) -> Result {
        Ok(self.open.lock().pasids.push(pasid, GFP_KERNEL)?)
    }

    /// Handles the requests with `pasid` that are there, and refuses later ones.
    ///
    /// # Safety
    ///
    /// The device must not be released during the call.
    pub(super) unsafe fn dismiss(&self, pasid: Pasid) {
        let dev = {
            let mut open = self.open.lock();
            // INVARIANT: Those under way end below, before anybody could rely on it.
            open.pasids.retain(|each| *each != pasid);
            open.dev.clone()
        };
        if let Some(dev) = dev {
            // SAFETY: The device is in the queue by the type invariant, and stays there.
            unsafe { bindings::iopf_queue_flush_dev(dev.as_raw()) };
        }
    }

    /// Takes the device out of the queue, after the last request was answered. Stands for
    /// `iopf_queue_remove_device()`.
    ///
    /// # Safety
    ///
    /// The device must not be released during the call.
    pub(super) unsafe fn close(&self) {
        // INVARIANT: There is no device from now on.
        let dev = self.open.lock().dev.take();
        if let Some(dev) = dev {
            // The core would free a request under the hands of its worker, so flush first.
            // SAFETY: The device is in the queue by the type invariant, and nobody else takes it
            // out.
            unsafe {
                bindings::iopf_queue_flush_dev(dev.as_raw());
                bindings::iopf_queue_remove_device(self.queue.0.as_ptr(), dev.as_raw());
            }
        }
    }

    /// Hands a request of the device to the core. Stands for `iommu_report_device_fault()`.
    ///
    /// May sleep: this is for an interrupt thread. Must not be called from
    /// [`PageRequests::respond`], nor with a lock held that `respond` takes.
    ///
    /// # Errors
    ///
    /// The last request of a group is answered in any case, unless the device has left its IOMMU.
    ///
    /// * [`ENODEV`]: the device has left its IOMMU.
    /// * [`ENOENT`]: the PASID is not set for the device.
    /// * [`EINVAL`]: the PASID is only just being set.
    /// * [`ENOMEM`]: the request was not the last one, and is lost.
    ///
    /// [`PageRequests::respond`]: super::PageRequests::respond
    pub fn report(&self, request: Request) -> Result {
        might_sleep();

        let mut event = request.to_raw();
        let open = self.open.lock();
        let dev = open.dev.as_ref().ok_or(ENODEV)?.as_raw();

        if !open.pasids.contains(&request.pasid) {
            if request.last {
                // SAFETY: By the type invariant of `Open`; the lock keeps it so.
                unsafe { refuse(dev, &mut event) };
            }
            return Err(ENOENT);
        }
        // The core looks the handle of the bond up and keeps it without a reference. The PASID is
        // set, so `dismiss()` will wait for this lock and then for the worker before the handle
        // goes.
        // SAFETY: As above.
        to_result(unsafe { bindings::iommu_report_device_fault(dev, &mut event) })
    }
}

/// Answers a request that the core does not get to see.
///
/// # Safety
///
/// `dev` must be claimed by a driver, and not be released during the call.
unsafe fn refuse(dev: *mut bindings::device, event: &mut bindings::iopf_fault) {
    let mut answer = bindings::iommu_page_response {
        pasid: event.fault.prm.pasid,
        grpid: event.fault.prm.grpid,
        code: bindings::iommu_page_response_code_IOMMU_PAGE_RESP_INVALID,
    };
    // SAFETY: A claimed device has these pointers.
    let ops = unsafe { &*(*(*(*dev).iommu).iommu_dev).ops };

    if let Some(respond) = ops.page_response {
        // SAFETY: As the core calls it.
        unsafe { respond(dev, event, &mut answer) };
    }
}
