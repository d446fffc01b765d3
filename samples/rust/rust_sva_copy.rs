// SPDX-License-Identifier: GPL-2.0

//! Rust sample of a device that uses the memory of a process by its addresses (based on QEMU's
//! `edu`).
//!
//! To make this driver probe, QEMU must be run with `-device edu,dma_mask=0xffffffffffffffff`. A
//! program opens `/dev/rust-sva-copy`, which binds it to the device, and writes requests of four
//! 64-bit words to it:
//!
//! * 1, an address, how many bytes, and whether the device writes there: the device reaches the
//!   memory from now on. This is what takes long, so a program does it once for memory that it uses
//!   often.
//! * 2, where to copy to, where from, and how many bytes, at most 4096: the device copies them. A
//!   64-bit word can be read then: how many bytes were copied.
//! * 3, and nothing of interest: the device reaches nothing of the program any more. The write
//!   fails with [`ESTALE`] if that was so for some of the memory before.
//!
//! The driver tells the device addresses that it got from the bond. This works with PASIDs or
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
    iommu::{
        sva::{
            self,
            Access,
            Bond,
            Prefault, //
        },
        SvaBonds,
        SvaFileBond, //
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
    bonds: Arc<SvaBonds>,
    bar: pci::DevresBar<END>,
}

kernel::sync::global_lock! {
    // SAFETY: Initialised by `SampleModule` before it registers anything.
    unsafe(uninit) static COPIER: Mutex<Option<Arc<Copier>>> = None;
}

/// What a program asks for.
enum Request {
    Reach(UserPtr, usize, Access),
    Copy(UserPtr, UserPtr, usize),
    Forget,
}

impl Request {
    const BYTES: usize = 32;

    fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self> {
        let word = |n: usize| {
            let word = bytes
                .get(n * 8..n * 8 + 8)
                .and_then(|word| word.try_into().ok());
            word.map(usize::from_ne_bytes).ok_or(EINVAL)
        };
        let ptr = |n| Ok::<_, Error>(UserPtr::from_addr(word(n)?));
        match (word(0)?, word(3)?) {
            (1, 0) => Ok(Self::Reach(ptr(1)?, word(2)?, Access::Read)),
            (1, _) => Ok(Self::Reach(ptr(1)?, word(2)?, Access::Write)),
            (2, len @ 1..=BUFFER_SIZE) => Ok(Self::Copy(ptr(1)?, ptr(2)?, len)),
            (3, _) => Ok(Self::Forget),
            _ => Err(EINVAL),
        }
    }
}

/// Memory that the device reaches.
struct Held {
    start: usize,
    len: usize,
    access: Access,
    memory: Prefault,
}

impl Held {
    /// Whether the device may do `access` with all of `len` bytes from `ptr` on.
    fn covers(&self, ptr: UserPtr, len: usize, access: Access) -> bool {
        let offset = ptr.as_const_ptr().addr().checked_sub(self.start);
        let rest = offset.and_then(|offset| self.len.checked_sub(offset));
        rest.is_some_and(|rest| len <= rest)
            && (access == Access::Read || self.access == Access::Write)
            && self.memory.is_live()
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
}

/// What a program has of the device.
#[derive(Default)]
struct State {
    held: KVec<Held>,
    /// How many bytes the last request copied.
    copied: Option<u64>,
}

/// An open file.
#[pin_data]
struct CopyFile {
    copier: Arc<Copier>,
    bond: SvaFileBond,
    #[pin]
    state: Mutex<State>,
}

impl CopyFile {
    fn copy(&self, held: &[Held], to: UserPtr, from: UserPtr, len: usize) -> Result {
        // The device must not be told addresses that it does not reach: it would stop.
        let reaches = |ptr, access| held.iter().any(|held| held.covers(ptr, len, access));
        let transfer = |dev: &Device<Bound>, bond: &Bond<'_>| {
            if !reaches(from, Access::Read) || !reaches(to, Access::Write) {
                return Err(EFAULT);
            }
            let address = |ptr| -> Result<DmaAddress> { bond.address(ptr).ok_or(ERANGE) };
            self.copier
                .transfer(dev, address(from)?, BUFFER, len as u64, 0)?;
            self.copier
                .transfer(dev, BUFFER, address(to)?, len as u64, TO_MEMORY)
        };
        // The device may lose its driver while the file is open, but not meanwhile.
        self.bond.with(transfer).ok_or(ENODEV)?
    }
}

#[vtable]
impl MiscDevice for CopyFile {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let copier = COPIER.lock().clone().ok_or(ENODEV)?;
        let bond = copier
            .bonds
            .bind_current(kernel::current!())
            .inspect_err(|why| pr_warn!("cannot bind the process: {why}\n"))?;

        KBox::pin_init(
            pin_init!(Self {
                copier,
                bond,
                state <- new_mutex!(State::default()),
            }),
            GFP_KERNEL,
        )
    }

    fn write_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let this = kiocb.file();
        let mut bytes = [0; Request::BYTES];

        // A child that has the file has other memory at its addresses.
        if !this.bond.is_of(kernel::current!()) {
            return Err(EXDEV);
        }
        if iov.len() != bytes.len() {
            return Err(EINVAL);
        }
        if iov.copy_from_iter(&mut bytes) != bytes.len() {
            return Err(EFAULT);
        }
        match Request::parse(&bytes)? {
            Request::Reach(start, len, access) => {
                // Without the lock: how long it takes to fault the memory in may be up to somebody.
                let memory = this
                    .bond
                    .prefault(start, len, access)
                    .inspect_err(|why| pr_warn!("cannot reach the memory: {why}\n"))?;
                let held = Held {
                    start: start.as_const_ptr().addr(),
                    len,
                    access,
                    memory,
                };
                this.state.lock().held.push(held, GFP_KERNEL)?;
            }
            Request::Copy(to, from, len) => {
                let mut state = this.state.lock();
                state.copied = None;
                this.copy(&state.held, to, from, len)?;
                state.copied = Some(len as u64);
            }
            Request::Forget => {
                let mut state = this.state.lock();
                let was_live = state.held.iter().all(|held| held.memory.is_live());
                state.held.clear();
                if !was_live {
                    return Err(ESTALE);
                }
            }
        }
        Ok(bytes.len())
    }

    fn read_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let this = kiocb.file();
        if !this.bond.is_of(kernel::current!()) {
            return Err(EXDEV);
        }
        let Some(copied) = this.state.lock().copied.take() else {
            return Ok(0);
        };
        Ok(iov.copy_to_iter(&copied.to_ne_bytes()))
    }
}

struct SampleDriver;

kernel::pci_device_table!(
    PCI_TABLE,
    <SampleDriver as pci::Driver>::IdInfo,
    // PCI_CLASS_NOT_DEFINED, others.
    [(pci::DeviceId::from_class(0x00_ff00, 0xff_ffff), ())]
);

impl pci::Driver for SampleDriver {
    type IdInfo = ();
    type Data<'bound> = Arc<Copier>;

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
            bonds: SvaBonds::new(dev)?,
            bar: bar.into_devres()?,
        };
        let copier = Arc::new(copier, GFP_KERNEL)?;
        *COPIER.lock() = Some(copier.clone());
        Ok(copier)
    }

    // The data is dropped after this, and that would be too late for a bond.
    fn unbind<'bound>(pdev: &'bound pci::Device<Core<'_>>, this: Pin<&Self::Data<'bound>>) {
        *COPIER.lock() = None;
        this.bonds.close(pdev.as_ref());
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
