// SPDX-License-Identifier: GPL-2.0

//! Test driver that binds a process to QEMU's `edu` and lets a test do the rest.
//!
//! A program opens `/dev/tce-hold` and writes three 64-bit words: an address, a length, and 1 if
//! the device is to write there, else 0. The driver binds the process, prefaults the memory, and
//! holds both until a program reads from the file or the writer gets a signal. Meanwhile the test
//! has the device access whatever bus address it likes, through the device's registers. A length
//! of 0 binds only. The write fails with [`ESTALE`] if the memory was gone in the end.
//!
//! What a test gets to see is thus the IOMMU, and not the good manners of a driver.

use kernel::{
    device::{
        Bound,
        Core,
        Device, //
    },
    driver,
    fs::{
        File,
        Kiocb, //
    },
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
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        }, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    InPlaceModule, //
};

kernel::sync::global_lock! {
    // SAFETY: Initialised by `HoldModule` before it registers anything.
    unsafe(uninit) static DEVICE: Mutex<Option<ARef<Device>>> = None;
}

/// How many programs hold something.
static HELD: Atomic<i32> = Atomic::new(0);
/// Goes up when they are to let go.
static ROUND: Atomic<i32> = Atomic::new(0);

fn hold(dev: &Device<Bound>, bytes: &[u8]) -> Result {
    let word = |n: usize| {
        let word = bytes.get(n * 8..n * 8 + 8);
        let word = word.and_then(|word| word.try_into().ok());
        word.map(usize::from_ne_bytes).ok_or(EINVAL)
    };
    let (start, len) = (UserPtr::from_addr(word(0)?), word(1)?);
    let access = match word(2)? {
        0 => Access::Read,
        _ => Access::Write,
    };
    let round = ROUND.load(Relaxed);
    let bond = Bond::bind_current(dev, kernel::current!())
        .inspect_err(|why| dev_info!(dev, "cannot bind: {why}\n"))?;
    let memory = match len {
        0 => None,
        len => Some(
            bond.prefault(start, len, access)
                .inspect_err(|why| dev_info!(dev, "cannot prefault: {why}\n"))?,
        ),
    };
    HELD.add(1, Relaxed);
    while ROUND.load(Relaxed) == round && !kernel::current!().signal_pending() {
        fsleep(Delta::from_millis(2));
    }
    HELD.add(-1, Relaxed);
    match memory.is_none_or(|memory| memory.is_live()) {
        true => Ok(()),
        false => Err(ESTALE),
    }
}

struct HoldFile;

#[vtable]
impl MiscDevice for HoldFile {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        Ok(KBox::new(Self, GFP_KERNEL)?)
    }

    fn write_iter(_kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let mut bytes = KVVec::new();
        iov.copy_from_iter_vec(&mut bytes, GFP_KERNEL)?;
        let dev = DEVICE.lock().clone().ok_or(ENODEV)?;
        sva::while_bound(&dev, |dev| hold(dev, &bytes)).ok_or(ENODEV)??;
        Ok(bytes.len())
    }

    /// Says how many programs hold something. A read of more than one byte has them let go.
    fn read_iter(_kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let held = HELD.load(Relaxed);
        if iov.len() > 1 {
            ROUND.add(1, Relaxed);
        }
        Ok(iov.copy_to_iter(&[held as u8]))
    }
}

struct HoldDriver;

/// Takes the device away from files.
struct Shown;

impl Drop for Shown {
    fn drop(&mut self) {
        *DEVICE.lock() = None;
    }
}

kernel::pci_device_table!(
    PCI_TABLE,
    <HoldDriver as pci::Driver>::IdInfo,
    [(pci::DeviceId::from_class(0x00_ff00, 0xff_ffff), ())]
);

impl pci::Driver for HoldDriver {
    type IdInfo = ();
    type Data<'bound> = Shown;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        let dev: &'bound Device<Bound> = pdev.as_ref();

        if (pdev.vendor_id().as_raw(), pdev.device_id()) != (0x1234, 0x11e8) {
            return Err(ENODEV);
        }
        sva::supported(dev)
            .inspect_err(|why| dev_warn!(dev, "no shared virtual addressing: {why}\n"))?;
        pdev.enable_device_mem()?;
        pdev.set_master();
        *DEVICE.lock() = Some(dev.into());
        Ok(Shown)
    }
}

#[pin_data]
struct HoldModule {
    #[pin]
    _driver: driver::Registration<pci::Adapter<HoldDriver>>,
    #[pin]
    _file: MiscDeviceRegistration<HoldFile>,
}

impl InPlaceModule for HoldModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: This is called once.
        unsafe { DEVICE.init() };

        try_pin_init!(Self {
            _driver <- driver::Registration::new(<Self as kernel::ModuleMetadata>::NAME, module),
            _file <- MiscDeviceRegistration::register(MiscDeviceOptions { name: c"tce-hold" }),
        })
    }
}

module! {
    type: HoldModule,
    name: "tce_hold",
    authors: ["TCE IOMMU maintainers"],
    description: "Test driver that binds a process to QEMU's edu",
    license: "GPL",
}
