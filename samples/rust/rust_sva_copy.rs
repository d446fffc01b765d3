// SPDX-License-Identifier: GPL-2.0

//! Rust sample of a device that uses the memory of a process by its addresses (based on QEMU's
//! `edu`).
//!
//! To make this driver probe, QEMU must be run with `-device edu,dma_mask=0xffffffffffffffff`. A
//! program opens `/dev/rust-sva-copy` and writes three 64-bit words to it: where to copy to, where
//! from, and how many bytes, at most 4096. The device copies them, and the program reads a 64-bit
//! word: how many bytes were copied.
//!
//! The driver binds the process to the device for the time of a request, has both buffers
//! prefaulted, and tells the device addresses that it got from the bond. This works with PASIDs or
//! without them. `edu` does not send a PASID, so in this sample only without.
//!
//! The device's DMA mask is that of the PCI core, 32 bits: where there are no PASIDs, a driver has
//! to keep it below the window of processes.

use kernel::{
    device::{
        Bound,
        Core,
        Device, //
    },
    dma::DmaAddress,
    driver,
    fs::{
        File,
        Kiocb, //
    },
    io::Io,
    iommu::sva::{
        self,
        Access,
        Bond, //
    },
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    new_mutex,
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    InPlaceModule, //
};

/// The first register, and what is in it. `edu` has the byte order of the machine that QEMU was
/// built for.
const ID: usize = 0x00;
const ID_VALUE: u32 = 0x0100_00ed;

/// The registers for DMA.
const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
const END: usize = 0xa0;

/// Bits of the command. The device clears the first one when it is done.
const START: u64 = 1;
const TO_MEMORY: u64 = 2;

/// The device's own memory, in its own addresses.
const BUFFER: u64 = 0x4_0000;
const BUFFER_SIZE: usize = 4096;

/// `edu` has no number of its own among the devices of its class.
const VENDOR: u16 = 0x1234;
const DEVICE: u16 = 0x11e8;

/// The device, as files know it.
struct Copier {
    dev: ARef<Device>,
    bar: pci::DevresBar<END>,
}

kernel::sync::global_lock! {
    // SAFETY: Initialised by `SampleModule` before it registers anything.
    unsafe(uninit) static COPIER: Mutex<Option<Arc<Copier>>> = None;
}

/// What a program asks for.
struct Request {
    destination: UserPtr,
    source: UserPtr,
    len: usize,
}

impl Request {
    const BYTES: usize = 24;

    fn parse(bytes: &[u8]) -> Result<Self> {
        let word = |n: usize| {
            let word = bytes
                .get(n * 8..n * 8 + 8)
                .and_then(|word| word.try_into().ok());
            word.map(usize::from_ne_bytes).ok_or(EINVAL)
        };
        let len = word(2)?;
        if bytes.len() != Self::BYTES || len == 0 || len > BUFFER_SIZE {
            return Err(EINVAL);
        }
        Ok(Self {
            destination: UserPtr::from_addr(word(0)?),
            source: UserPtr::from_addr(word(1)?),
            len,
        })
    }
}

impl Copier {
    /// Has the device copy `len` bytes between the two addresses, one of them its own.
    fn transfer(&self, dev: &Device<Bound>, from: u64, to: u64, len: u64, bits: u64) -> Result {
        let bar = self.bar.access(dev)?;
        let order = |value: u64| match bar.read32(ID) {
            ID_VALUE => value,
            _ => value.swap_bytes(),
        };

        bar.try_write64(order(from), SOURCE)?;
        bar.try_write64(order(to), DESTINATION)?;
        bar.try_write64(order(len), COUNT)?;
        bar.try_write64(order(START | bits), COMMAND)?;
        for _ in 0..1000 {
            fsleep(Delta::from_millis(2));
            if order(bar.try_read64(COMMAND)?) & START == 0 {
                return Ok(());
            }
        }
        Err(ETIMEDOUT)
    }

    /// Copies between two places of the current process.
    fn copy(&self, dev: &Device<Bound>, request: &Request) -> Result {
        let Request {
            destination,
            source,
            len,
        } = *request;

        let bond = Bond::bind_current(dev, kernel::current!())
            .inspect_err(|why| dev_warn!(dev, "cannot bind the process: {why}\n"))?;
        let prefault = |ptr, access| {
            bond.prefault(ptr, len, access)
                .inspect_err(|why| dev_warn!(dev, "cannot reach the buffer: {why}\n"))
        };
        // Until these two are dropped, the device reaches the buffers, and nothing else.
        let _source = prefault(source, Access::Read)?;
        let _destination = prefault(destination, Access::Write)?;
        let address = |ptr| -> Result<DmaAddress> { bond.address(ptr).ok_or(ERANGE) };

        self.transfer(dev, address(source)?, BUFFER, len as u64, 0)?;
        self.transfer(dev, BUFFER, address(destination)?, len as u64, TO_MEMORY)
    }
}

/// An open file.
#[pin_data]
struct CopyFile {
    copier: Arc<Copier>,
    /// How many bytes the last request copied.
    #[pin]
    copied: Mutex<Option<u64>>,
}

#[vtable]
impl MiscDevice for CopyFile {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let copier = COPIER.lock().clone().ok_or(ENODEV)?;

        KBox::pin_init(
            pin_init!(Self {
                copier,
                copied <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )
    }

    fn write_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let this = kiocb.file();
        let mut bytes = KVVec::new();

        if iov.len() != Request::BYTES {
            return Err(EINVAL);
        }
        iov.copy_from_iter_vec(&mut bytes, GFP_KERNEL)?;
        let request = Request::parse(&bytes)?;
        let mut copied = this.copied.lock();
        *copied = None;
        // The device may lose its driver while the file is open, but not meanwhile.
        sva::while_bound(&this.copier.dev, |dev| this.copier.copy(dev, &request))
            .ok_or(ENODEV)??;
        *copied = Some(request.len as u64);
        Ok(bytes.len())
    }

    fn read_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let Some(copied) = kiocb.file().copied.lock().take() else {
            return Ok(0);
        };
        Ok(iov.copy_to_iter(&copied.to_ne_bytes()))
    }
}

struct SampleDriver;

/// Takes the device away from files that are opened.
struct Shown;

impl Drop for Shown {
    fn drop(&mut self) {
        *COPIER.lock() = None;
    }
}

kernel::pci_device_table!(
    PCI_TABLE,
    <SampleDriver as pci::Driver>::IdInfo,
    // PCI_CLASS_NOT_DEFINED, others.
    [(pci::DeviceId::from_class(0x00_ff00, 0xff_ffff), ())]
);

impl pci::Driver for SampleDriver {
    type IdInfo = ();
    type Data<'bound> = Shown;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        let dev: &'bound Device<Bound> = pdev.as_ref();

        if (pdev.vendor_id().as_raw(), pdev.device_id()) != (VENDOR, DEVICE) {
            return Err(ENODEV);
        }
        sva::supported(dev)
            .inspect_err(|why| dev_warn!(dev, "no shared virtual addressing: {why}\n"))?;
        pdev.enable_device_mem()?;
        pdev.set_master();
        let bar = pdev.iomap_region_sized::<END>(0, c"rust_sva_copy")?;
        let copier = Copier {
            dev: dev.into(),
            bar: bar.into_devres()?,
        };
        *COPIER.lock() = Some(Arc::new(copier, GFP_KERNEL)?);
        Ok(Shown)
    }
}

#[pin_data]
struct SampleModule {
    #[pin]
    _driver: driver::Registration<pci::Adapter<SampleDriver>>,
    #[pin]
    _file: MiscDeviceRegistration<CopyFile>,
}

impl InPlaceModule for SampleModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: This is called once.
        unsafe { COPIER.init() };

        try_pin_init!(Self {
            _driver <- driver::Registration::new(<Self as kernel::ModuleMetadata>::NAME, module),
            _file <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"rust-sva-copy",
            }),
        })
    }
}

module! {
    type: SampleModule,
    name: "rust_sva_copy",
    authors: ["TCE IOMMU maintainers"],
    description: "Rust sample of a device that uses the addresses of a process",
    license: "GPL v2",
}
