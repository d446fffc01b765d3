// SPDX-License-Identifier: GPL-2.0

//! Rust sample for shared virtual addressing (based on QEMU's `pci-testdev`).
//!
//! To make this driver probe, QEMU must be run with `-device pci-testdev`. It binds the device to
//! the process that probes it, `insmod` for example, and keeps the bond when that process exits.
//! Where shared virtual addressing is not possible, the driver says why and goes on without.
//!
//! A real driver binds when a process opens its device file, and programs the PASID into its
//! device.

use kernel::{
    device::{
        Bound,
        Core,
        Device, //
    },
    iommu::sva::{
        self,
        BindError,
        Context,
        MmExit,
        Pasid, //
    },
    new_mutex,
    pci,
    prelude::*,
    sync::Mutex, //
};

/// What the driver keeps for a bound process.
struct Queue;

impl MmExit for Queue {
    fn mm_exit(self: Pin<&Self>, dev: &Device, pasid: Pasid) {
        dev_info!(dev, "the process exits, stopping PASID {}\n", pasid.get());
    }
}

#[pin_data]
struct SampleDriverData<'bound> {
    #[pin]
    context: Mutex<Option<Context<'bound, Queue>>>,
}

fn bind(dev: &Device<Bound>) -> Result<Context<'_, Queue>, BindError> {
    sva::supported(dev)?;
    dev_info!(dev, "PASIDs below {}\n", sva::max_pasids(dev));

    let current = kernel::current!();
    let mm = current.mm().ok_or(BindError::NoMm)?;
    Context::bind(dev, mm, Ok(Queue))
}

struct SampleDriver;

kernel::pci_device_table!(
    PCI_TABLE,
    <SampleDriver as pci::Driver>::IdInfo,
    [(pci::DeviceId::from_id(pci::Vendor::REDHAT, 0x5), ())]
);

impl pci::Driver for SampleDriver {
    type IdInfo = ();
    type Data<'bound> = SampleDriverData<'bound>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        let dev: &'bound Device<Bound> = pdev.as_ref();

        let context = bind(dev)
            .inspect_err(|why| dev_warn!(dev, "no shared virtual addressing: {why}\n"))
            .ok();
        if let Some(pasid) = context.as_ref().and_then(Context::pasid) {
            dev_info!(dev, "bound with PASID {}\n", pasid.get());
        }
        try_pin_init!(SampleDriverData {
            context <- new_mutex!(context),
        })
    }

    // The data is dropped after this, and that would be too late for a bond.
    fn unbind<'bound>(pdev: &'bound pci::Device<Core<'_>>, this: Pin<&Self::Data<'bound>>) {
        let context = this.context.lock().take();

        if let Some(context) = context {
            let state = context.pasid().map_or("has exited", |_| "lives");
            dev_info!(pdev, "unbinding, the process {state}\n");
        }
    }
}

kernel::module_pci_driver! {
    type: SampleDriver,
    name: "rust_driver_pci_sva",
    authors: ["TCE IOMMU maintainers"],
    description: "Rust sample for shared virtual addressing",
    license: "GPL v2",
}
