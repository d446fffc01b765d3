// SPDX-License-Identifier: GPL-2.0

//! The pages of a process that are in its window.
//!
//! What a page of the window permits is a function of the [`Hold`]s on it, all under one lock. A
//! page stays pinned as long as there is a hold that was mapped, so whatever a device reaches, it
//! is memory that nobody else has got meanwhile.

use super::{
    sva_error::PrefaultError,
    sva_window::{
        Module,
        SvaWindow, //
    },
    Iova,
    IovaRange, //
};
use crate::{
    bindings,
    mm::{
        interval::{
            Change,
            Interval,
            Invalidate, //
        },
        pin::{
            Locked,
            PinnedPages, //
        },
        Mm, //
    },
    new_spinlock,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// How often a prefault begins, each time when somebody else has changed the memory meanwhile, and
/// how many microseconds it leaves him in between.
const TURNS: usize = 100;
const PAUSE: i64 = 50;

/// Page numbers in the address space of a process: the first and the last.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pages {
    first: usize,
    last: usize,
}

impl Pages {
    /// The pages of the `len` bytes from `start` on.
    fn of(start: usize, len: usize) -> Option<Self> {
        let last = start.checked_add(len.checked_sub(1)?)?;
        Some(Self {
            first: start >> PAGE_SHIFT,
            last: last >> PAGE_SHIFT,
        })
    }

    fn count(self) -> usize {
        // OVERFLOW: `last` is not below `first`, and a page has more than one byte.
        self.last.wrapping_sub(self.first).wrapping_add(1)
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// `count` of the pages, from number `at` of them on.
    fn part(self, at: usize, count: usize) -> Self {
        let first = self.first.saturating_add(at);
        Self {
            first,
            last: first.saturating_add(count.saturating_sub(1)),
        }
    }

    fn each(self) -> impl Iterator<Item = Self> {
        (self.first..=self.last).map(|page| Self {
            first: page,
            last: page,
        })
    }
}

/// Somebody's wish that pages of the window be there.
struct Hold {
    number: u64,
    pages: Pages,
    write: bool,
}

struct Holds {
    all: KVec<Hold>,
    /// The number of the next one.
    next: u64,
}

impl Holds {
    /// Where the hold with the number is; they are in the order of their numbers.
    fn position(&self, number: u64) -> Option<usize> {
        self.all.binary_search_by_key(&number, |h| h.number).ok()
    }

    /// What the holds besides `number` permit for `pages`: nothing, to read, or to write too.
    fn others(&self, number: u64, pages: Pages) -> Option<bool> {
        let others = self.all.iter().filter(|hold| hold.number != number);
        others
            .filter(|hold| hold.pages.overlaps(pages))
            .map(|hold| hold.write)
            .max()
    }
}

/// The window of a process, with those who hold pages of it.
#[pin_data]
pub(super) struct Mirror {
    mm: ARef<Mm>,
    window: Arc<dyn SvaWindow>,
    #[pin]
    holds: SpinLock<Holds>,
    /// Whether a hold was lost that nobody released: mostly not, and there is nothing to look up.
    any_lost: Atomic<bool>,
    /// Dropped last: the code of `window`. Holds may outlive the driver's devices.
    _module: Module,
}

impl Mirror {
    /// Makes a mirror of `mm`, in which nothing is there.
    ///
    /// `ops` are those of the driver that has the window.
    pub(super) fn new(
        mm: &Mm,
        window: Arc<dyn SvaWindow>,
        ops: &bindings::iommu_ops,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                mm: mm.into(),
                window,
                holds <- new_spinlock!(Holds {
                    all: KVec::new(),
                    next: 0,
                }),
                any_lost: Atomic::new(false),
                _module: Module::get(ops),
            }),
            GFP_KERNEL,
        )
    }

    /// The bus address of address `ptr` of the process.
    pub(super) fn address(&self, ptr: usize) -> Option<Iova> {
        let window = self.window.iovas();
        // CAST: An address fits 64 bits.
        let iova = window.first().checked_add(ptr as u64)?;
        window.contains(iova).then_some(iova)
    }

    /// The bus addresses of pages.
    fn range(&self, pages: Pages) -> Option<IovaRange> {
        let bytes = |page: usize| page.checked_mul(PAGE_SIZE);
        let last = bytes(pages.last)?.checked_add(PAGE_SIZE.checked_sub(1)?)?;
        IovaRange::new(self.address(bytes(pages.first)?)?, self.address(last)?)
    }

    /// Calls `f` with the bus addresses of `pages`, which were found to lie in the window.
    fn with(&self, pages: Pages, f: impl FnOnce(&dyn SvaWindow, IovaRange) -> Result) -> Result {
        f(&*self.window, self.range(pages).ok_or(EINVAL)?)
    }

    /// Adds a hold on pages that are pinned, and lets devices reach them. Does not sleep.
    fn hold(&self, pages: Pages, pinned: &PinnedPages, write: bool) -> Result<u64> {
        let mut holds = self.holds.lock();
        let number = holds.next;
        holds.next = number.wrapping_add(1);
        let hold = Hold {
            number,
            pages,
            write,
        };
        holds.all.push(hold, GFP_ATOMIC)?;
        let result = if holds.others(number, pages).is_none() {
            pinned.runs().try_for_each(|run| {
                self.with(pages.part(run.first, run.count), |window, range| {
                    window.set(range, run.phys, write)
                })
            })
        } else {
            let mut each = pages.each().zip(pinned.each());
            each.try_for_each(|(page, phys)| {
                self.with(page, |window, range| match holds.others(number, page) {
                    None => window.set(range, phys, write),
                    // Whoever holds the page would have heard of a new one.
                    Some(_) if window.get(range.first()) != Some(phys) => Err(EAGAIN),
                    Some(false) if write => window.protect(range, true),
                    Some(_) => Ok(()),
                })
            })
        };
        result
            .and_then(|()| self.with(pages, |window, range| window.publish(range)))
            .inspect_err(|_| self.drop_hold(&mut holds, number))?;
        Ok(number)
    }

    /// Takes a hold away, and with it what nobody else holds. Does not sleep.
    ///
    /// When this returns, no access by way of the hold is possible or under way.
    fn release(&self, number: u64) {
        self.drop_hold(&mut self.holds.lock(), number);
    }

    fn drop_hold(&self, holds: &mut Holds, number: u64) {
        let Some(Ok(hold)) = holds.position(number).map(|at| holds.all.remove(at)) else {
            return;
        };
        let clear = |window: &dyn SvaWindow, range| {
            window.clear(range);
            window.withdraw(range);
            Ok(())
        };
        // These fail for pages outside the window only, and there are none.
        if holds.others(number, hold.pages).is_none() {
            self.with(hold.pages, clear).ok();
        } else {
            for page in hold.pages.each() {
                match holds.others(number, page) {
                    None => self.with(page, clear).ok(),
                    Some(false) if hold.write => self
                        .with(page, |window, range| {
                            window.protect(range, false)?;
                            window.publish(range)
                        })
                        .or_else(|_| self.lose(holds, page))
                        .ok(),
                    Some(_) => None,
                };
            }
        }
        // Once for all pages: it looks at whole leaves.
        let trim = |window: &dyn SvaWindow, range| {
            window.trim(range);
            Ok(())
        };
        self.with(hold.pages, trim).ok();
    }

    /// Takes a page that cannot be made read-only from all who hold it, and all that they hold:
    /// whoever has a hold has all of its pages.
    fn lose(&self, holds: &mut Holds, page: Pages) -> Result {
        self.any_lost.store(true, Relaxed);
        // They only read, so there is nothing of theirs to make read-only.
        while let Some(other) = holds.all.iter().find(|hold| hold.pages.overlaps(page)) {
            let number = other.number;
            self.drop_hold(holds, number);
        }
        Ok(())
    }

    /// Whether a hold that nobody has released has its pages.
    fn has(&self, number: u64) -> bool {
        !self.any_lost.load(Relaxed) || self.holds.lock().position(number).is_some()
    }

    /// Makes `len` bytes from `start` on reachable. Sleeps.
    pub(super) fn prefault(
        self: &Arc<Self>,
        start: usize,
        len: usize,
        write: bool,
    ) -> Result<Prefaulted, PrefaultError> {
        let pages = Pages::of(start, len).ok_or(PrefaultError::NoMemory)?;
        let window = self.window.iovas();
        let range = self.range(pages).ok_or(PrefaultError::Outside(window))?;
        let mm = self.mm.mmget_not_zero().ok_or(PrefaultError::Exited)?;
        let locked = Locked::new(&mm, pages.count()).ok_or(PrefaultError::LockLimit)?;
        let start = pages.first.wrapping_mul(PAGE_SIZE);
        let len = pages.count().wrapping_mul(PAGE_SIZE);
        let watch = try_pin_init!(Watch {
            mirror: self.clone(),
            held <- new_spinlock!(None),
        });
        let interval = KBox::pin_init(Interval::new(&mm, start, len, watch), GFP_KERNEL_ACCOUNT)?;
        let turn = || {
            let seen = interval.begin();
            let pinned =
                PinnedPages::new(&mm, start, pages.count(), write).map_err(|e| match e {
                    EFAULT => PrefaultError::NoMemory,
                    e => PrefaultError::Other(e),
                })?;
            self.window.prepare(range)?;
            let watch = interval.as_ref().data();
            let hold = || self.hold(pages, &pinned, write);
            let keep = |number| *watch.held.lock() = Some(number);
            let held = interval.unless_changed(seen, || hold().map(keep));
            held.unwrap_or(Err(EAGAIN))?;
            Ok(pinned)
        };
        let mut result = turn();
        for _ in 1..TURNS {
            if !matches!(result, Err(PrefaultError::Other(EAGAIN))) {
                break;
            }
            // Pages that are there are pinned without a look at signals or at who else waits.
            if crate::current!().signal_pending() {
                result = Err(PrefaultError::Other(EINTR));
                break;
            }
            fsleep(Delta::from_micros(PAUSE));
            result = turn();
        }
        let pinned = result.inspect_err(|_| {
            // With the lock, as all that changes the table.
            let _holds = self.holds.lock();
            self.window.trim(range);
        })?;
        Ok(Prefaulted {
            interval,
            _pinned: pinned,
            _locked: locked,
        })
    }
}

/// What the notifier of a range needs.
#[pin_data(PinnedDrop)]
struct Watch {
    mirror: Arc<Mirror>,
    /// The number of the hold, as long as it lasts.
    #[pin]
    held: SpinLock<Option<u64>>,
}

impl Watch {
    fn release(&self) {
        let number = self.held.lock().take();
        if let Some(number) = number {
            self.mirror.release(number);
        }
    }
}

impl Invalidate for Watch {
    fn invalidate(self: Pin<&Self>, change: Change) {
        // A page that is pinned stays the process's, whatever it makes of its permissions later.
        if change == Change::Gone {
            self.release();
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Watch {
    fn drop(self: Pin<&mut Self>) {
        self.release();
    }
}

/// Memory that is in the window of a process.
pub(super) struct Prefaulted {
    // The order of the fields is the order in which they are dropped: the pages are unpinned when
    // no device reaches them any more.
    interval: Pin<KBox<Interval<Watch>>>,
    _pinned: PinnedPages,
    _locked: Locked,
}

impl Prefaulted {
    /// Whether it is there still, and devices reach it.
    pub(super) fn is_live(&self) -> bool {
        let watch = self.interval.as_ref().data();
        let number = *watch.held.lock();
        let has = |number| watch.mirror.has(number);
        watch.mirror.window.is_connected() && number.is_some_and(has)
    }
}
