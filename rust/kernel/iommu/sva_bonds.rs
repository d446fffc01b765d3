// SPDX-License-Identifier: GPL-2.0

//! Bonds that open files have.
//!
//! A bond needs a device that has a driver, and a file may stay open for longer. So the bonds of
//! files are on a list of the driver, which drops them when it is unbound.

use super::{
    sva::Bond,
    sva_error::{
        BindError,
        PrefaultError, //
    },
    sva_mirror::Mirror,
    sva_prefault::{
        Access,
        Prefault, //
    }, //
};
use crate::{
    bindings,
    device::{
        Bound,
        Core,
        Device, //
    },
    devres,
    mm::Mm,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
    task::CurrentTask,
    types::ScopeGuard,
    uaccess::UserPtr, //
};
use core::{
    mem,
    ptr, //
};

/// A bond on the list.
type Listed = (u64, Arc<Bond<'static>>);

struct List {
    /// [`None`] when the driver is gone.
    bonds: Option<KVec<Listed>>,
    /// The number of the next one.
    next: u64,
}

/// The bonds that open files have with the device of a driver.
///
/// The driver makes it when it is bound, has files [bind](Self::bind_current) by it, and
/// [closes](Self::close) it in its `unbind`.
///
/// # Invariants
///
/// While `list.bonds` is there the device has its driver, or is being unbound. Bonds leave the
/// list, and are dropped, with the lock of the device held.
#[pin_data]
pub struct SvaBonds {
    dev: ARef<Device>,
    #[pin]
    list: Mutex<List>,
}

/// Closes the list at the latest when devres lets go of what a driver has.
struct Closer(Arc<SvaBonds>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.drop_all();
    }
}

impl SvaBonds {
    /// Makes a list for the device. May sleep.
    pub fn new(dev: &Device<Bound>) -> Result<Arc<Self>> {
        let list = List {
            bonds: Some(KVec::new()),
            next: 0,
        };
        // INVARIANT: The device has its driver; `Closer` is dropped when that changes.
        let this = Arc::pin_init(
            pin_init!(Self {
                dev: dev.into(),
                list <- new_mutex!(list),
            }),
            GFP_KERNEL,
        )?;
        devres::register(dev, Closer(this.clone()), GFP_KERNEL)?;
        Ok(this)
    }

    /// Drops all bonds. Nobody binds any more, and files find that the driver is gone.
    ///
    /// This is for the `unbind` of the driver. If it is forgotten, or `dev` is another device, the
    /// bonds are dropped later, when the core has taken the device back already, and warns.
    pub fn close(&self, dev: &Device<Core<'_>>) {
        if ptr::eq(dev.as_raw(), self.dev.as_raw()) {
            self.drop_all();
        }
    }

    fn drop_all(&self) {
        // Not under the mutex, because to drop a bond takes locks of the core.
        let bonds = self.list.lock().bonds.take();
        drop(bonds);
    }

    /// Calls `f` if the driver is still there, which it stays meanwhile.
    ///
    /// The lock of the device is held, so who unbinds the driver waits for `f`. May sleep. It is
    /// for files: the callbacks of the driver must not call it, nor may `f`. Nor may an `mmap` of
    /// a file: who binds takes the lock of the address space with that of the device held, and
    /// lockdep, which leaves locks of devices out, does not tell.
    pub fn while_bound<R>(&self, f: impl FnOnce(&Device<Bound>) -> R) -> Option<R> {
        // SAFETY: The device is valid.
        unsafe { bindings::device_lock(self.dev.as_raw()) };
        let _lock = ScopeGuard::new(|| {
            // SAFETY: The lock was taken above.
            unsafe { bindings::device_unlock(self.dev.as_raw()) }
        });
        self.list.lock().bonds.as_ref()?;
        // SAFETY: By the type invariants the device has its driver. Who unbinds it holds the lock
        // from before that until the list is closed, so it stays while the lock is held.
        Some(f(unsafe { Device::<Bound>::from_raw(self.dev.as_raw()) }))
    }

    /// Binds the device to the address space of the current task, for an open file. May sleep.
    ///
    /// [`Bond::bind`] has the rules. Fails with [`ENODEV`] when the driver is gone.
    pub fn bind_current(self: &Arc<Self>, current: &CurrentTask) -> Result<SvaFileBond, BindError> {
        let mm: &Mm = current.mm().ok_or(BindError::NoMm)?;
        let bind = |dev: &Device<Bound>| {
            // The lock of the device keeps others from taking the place. So nothing fails once
            // there is a bond, which must not be dropped under the mutex.
            let mut list = self.list.lock();
            let room = list.bonds.as_mut().ok_or(ENODEV)?.reserve(1, GFP_KERNEL);
            room.map_err(Error::from)?;
            drop(list);
            let bond = Bond::bind_current(dev, current)?;
            // SAFETY: Only the lifetime changes. By the type invariants the bond is dropped while
            // the device has its driver.
            let bond = unsafe { mem::transmute::<Bond<'_>, Bond<'static>>(bond) };
            let bond = Arc::new(bond, GFP_KERNEL).map_err(Error::from)?;
            let mut list = self.list.lock();
            let number = list.next;
            list.next = number.wrapping_add(1);
            match &mut list.bonds {
                Some(bonds) => bonds
                    .push((number, bond), GFP_KERNEL)
                    .map_err(Error::from)?,
                None => return Err(ENODEV.into()),
            }
            Ok::<_, BindError>(number)
        };
        let number = self.while_bound(bind).ok_or(ENODEV)??;
        Ok(SvaFileBond {
            bonds: self.clone(),
            number,
            mm: mm.into(),
        })
    }
}

/// A bond that lasts as long as a file is open, or until the driver of the device is unbound.
///
/// It belongs into the data of the file: it must not be dropped by a callback of the driver.
pub struct SvaFileBond {
    bonds: Arc<SvaBonds>,
    number: u64,
    mm: ARef<Mm>,
}

impl SvaFileBond {
    /// Whether the bond is with the address space of the current task.
    ///
    /// A file may have come from another process, whose pointers mean something else.
    pub fn is_of(&self, current: &CurrentTask) -> bool {
        current
            .mm()
            .is_some_and(|mm| ptr::eq::<Mm>(&**mm, &*self.mm))
    }

    /// Calls `f` with the device and the bond, as [`SvaBonds::while_bound`] does.
    pub fn with<R>(&self, f: impl FnOnce(&Device<Bound>, &Bond<'_>) -> R) -> Option<R> {
        let call = |dev: &Device<Bound>| {
            let bond = {
                let list = self.bonds.list.lock();
                let mut all = list.bonds.iter().flatten();
                all.find(|(number, _)| *number == self.number)?.1.clone()
            };
            // It stays on the list meanwhile, because the lock of the device is held.
            Some(f(dev, &bond))
        };
        self.bonds.while_bound(call).flatten()
    }

    /// Does what [`Bond::prefault`] does. It may take long, and nobody waits for it.
    ///
    /// Fails with [`ENODEV`] when the driver is gone.
    pub fn prefault(
        &self,
        ptr: UserPtr,
        len: usize,
        access: Access,
    ) -> Result<Prefault, PrefaultError> {
        let mirror: Option<Arc<Mirror>> =
            self.with(|_, bond| bond.mirror().cloned()).ok_or(ENODEV)?;
        // CAST: An address of the process.
        Prefault::new(mirror.as_ref(), ptr.as_const_ptr().addr(), len, access)
    }
}

impl Drop for SvaFileBond {
    fn drop(&mut self) {
        let take = |_: &Device<Bound>| {
            let bond = {
                let mut list = self.bonds.list.lock();
                let bonds = list.bonds.as_mut()?;
                let at = bonds
                    .iter()
                    .position(|(number, _)| *number == self.number)?;
                bonds.remove(at).ok()
            };
            // Here the lock of the device is held, and the mutex is not.
            drop(bond);
            Some(())
        };
        self.bonds.while_bound(take);
    }
}
