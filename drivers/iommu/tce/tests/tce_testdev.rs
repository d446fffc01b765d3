// SPDX-License-Identifier: GPL-2.0

//! Test driver for QEMU's `iommu-testdev`: does the IOMMU let through what is mapped, and nothing
//! else?
//!
//! The device writes four bytes to a bus address on request and says whether the write went
//! through. On probe the driver maps a buffer with the DMA API and has the device write inside it,
//! one page outside it on both sides, and inside it again after it was unmapped. The kernel log has
//! one `PASS` or `FAIL` line for each.
//!
//! The device shares its PCI ID with `pci-testdev`.

use kernel::{
    device::{
        Bound,
        Core, //
    },
    dma::{
        Coherent,
        DataDirection,
        Device,
        DmaAddress,
        DmaMask, //
    },
    io::{
        io_read,
        Io, //
    },
    page::PAGE_SIZE,
    pci,
    prelude::*,
    scatterlist::{
        Owned,
        SGTable, //
    }, //
};

/// Registers of BAR 0, all 32 bits wide.
mod regs {
    /// A read starts the armed DMA.
    pub(super) const TRIGGER: usize = 0x00;
    /// Low half of the bus address.
    pub(super) const ADDRESS_LOW: usize = 0x04;
    /// High half of the bus address.
    pub(super) const ADDRESS_HIGH: usize = 0x08;
    /// Length in bytes.
    pub(super) const LENGTH: usize = 0x0c;
    /// How the last DMA went.
    pub(super) const RESULT: usize = 0x10;
    /// Writing 1 arms a DMA.
    pub(super) const DOORBELL: usize = 0x14;

    pub(super) const END: usize = 0x24;
}

/// The result of a write that the IOMMU refused.
const REFUSED: u32 = 0xdead_0002;
/// The result of a write that went through, if the device's own comparison with another address,
/// which is not used here, fails.
const WRITTEN: u32 = 0xdead_0004;
/// What the device writes.
const PATTERN: u32 = 0x1234_5678;
/// The size of the buffer: several pages of any size.
const WORDS: usize = 4 * PAGE_SIZE / size_of::<u32>();

type Bar<'a> = pci::Bar<'a, { regs::END }>;

/// Has the device write [`PATTERN`] to `address` and returns its result.
fn write(bar: &Bar<'_>, address: DmaAddress) -> u32 {
    // CAST: The two halves of the address.
    bar.write32(address as u32, regs::ADDRESS_LOW);
    bar.write32((address >> 32) as u32, regs::ADDRESS_HIGH);
    bar.write32(4, regs::LENGTH);
    bar.write32(1, regs::DOORBELL);
    bar.read32(regs::TRIGGER);
    bar.read32(regs::RESULT)
}

fn report(pdev: &pci::Device<Bound>, what: &str, pass: bool, result: u32) {
    let verdict = if pass { "PASS" } else { "FAIL" };
    dev_info!(pdev, "{verdict} {what} (result {result:#x})\n");
}

/// Runs the checks with one buffer.
fn check(pdev: &pci::Device<Bound>, bar: &Bar<'_>) -> Result {
    let buffer: Coherent<[u32]> = Coherent::zeroed_slice(pdev.as_ref(), WORDS, GFP_KERNEL)?;
    let address = buffer.dma_address();
    let last = WORDS - 1;
    // CAST: `usize` is no wider than an address.
    let bytes = buffer.size() as DmaAddress;
    let page = PAGE_SIZE as DmaAddress;
    dev_info!(pdev, "buffer at {address:#x}, {bytes:#x} bytes\n");

    let result = write(bar, address);
    let read = io_read!(buffer, [try: 0]);
    report(pdev, "inside", result == WRITTEN && read == PATTERN, result);
    let result = write(bar, address + bytes - 4);
    let read = io_read!(buffer, [try: last]);
    report(
        pdev,
        "last-word",
        result == WRITTEN && read == PATTERN,
        result,
    );

    let result = write(bar, address.wrapping_add(bytes));
    report(pdev, "outside-above", result == REFUSED, result);
    let result = write(bar, address.wrapping_sub(page));
    report(pdev, "outside-below", result == REFUSED, result);

    drop(buffer);
    let result = write(bar, address);
    report(pdev, "after-unmap", result == REFUSED, result);
    Ok(())
}

/// A buffer mapped for DMA.
type Mapping = SGTable<Owned<VVec<u8>>>;

struct Testdev {
    /// A mapping held until the driver unbinds, so that its cost can be counted.
    _held: Option<Pin<KBox<Mapping>>>,
}

kernel::pci_device_table!(
    PCI_TABLE,
    <Testdev as pci::Driver>::IdInfo,
    [(pci::DeviceId::from_id(pci::Vendor::REDHAT, 0x5), ())]
);

impl pci::Driver for Testdev {
    type IdInfo = ();
    type Data<'bound> = Self;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            pdev.enable_device_mem()?;
            pdev.set_master();
            // SAFETY: There are no DMA mappings yet.
            unsafe { pdev.dma_set_mask_and_coherent(DmaMask::new::<64>())? };
            // SAFETY: There are no DMA mappings yet.
            unsafe { pdev.dma_set_max_seg_size(u32::MAX) };

            if module_parameters::oracle.value() {
                let bar = pdev.iomap_region_sized::<{ regs::END }>(0, c"tce_testdev")?;
                check(pdev, &bar)?;
            }

            // CAST: `u32` fits `usize`.
            let bytes = module_parameters::hold_kib.value() as usize * 1024;
            let held = if bytes > 0 {
                let pages = VVec::with_capacity(bytes, GFP_KERNEL)?;
                let map = SGTable::new(pdev.as_ref(), pages, DataDirection::ToDevice, GFP_KERNEL);
                let map = KBox::pin_init(map, GFP_KERNEL)?;
                dev_info!(pdev, "holding {bytes:#x} bytes\n");
                Some(map)
            } else {
                None
            };
            Ok(Ok(Self { _held: held }))
        })
    }
}

kernel::module_pci_driver! {
    type: Testdev,
    name: "tce_testdev",
    authors: ["TCE IOMMU maintainers"],
    description: "DMA checks with QEMU's iommu-testdev",
    license: "GPL",
    params: {
        oracle: bool {
            default: true,
            description: "Check what the IOMMU lets through",
        },
        hold_kib: u32 {
            default: 0,
            description: "KiB to keep mapped until the driver unbinds",
        },
    },
}
