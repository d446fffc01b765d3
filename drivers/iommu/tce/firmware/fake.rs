// SPDX-License-Identifier: GPL-2.0

//! A firmware for tests that is stricter than any emulator.
//!
//! It behaves like the machine where that hurts: the PHB caches TCEs, those that are not valid too,
//! until they are killed, a DMA without a valid TCE freezes the PE, hypercalls take no more than
//! 512 TCEs and may stop half way, windows are limited in number and size, and any call can be made
//! to fail. Tests do DMA with [`Fake::dma`] and learn where it went. With a [hook](Fake::hook) they
//! do something else in the middle of a call. It also knows the devices of the PE, who maps their
//! DMA, and whose driver must not be disturbed.

use crate::{
    firmware::calls::{
        Calls,
        Refused, //
    },
    ownership::Devices, //
};
use kernel::{
    alloc::faults::exempt,
    device::Device,
    io::PhysAddr,
    new_spinlock_irq,
    powerpc::{
        mem::TceList,
        owner::DmaOwner,
        window::{
            Firmware as Kind,
            Ioba,
            Levels,
            Liobn,
            PageShift,
            PageShifts,
            Query,
            Root,
            Tce,
            TceIndex,
            Tces,
            Window,
            WindowId,
            WindowNumber,
            MAX_WINDOWS, //
        }, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        SpinLockIrq, //
    }, //
};

/// The PAPR codes that the fake answers with.
const H_PARAMETER: c_long = -4;
const H_HARDWARE: c_long = -1;
const H_BUSY: c_long = 1;

/// How the fake differs from one machine to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    /// The interface.
    pub(crate) kind: Kind,
    /// PHB4 and later: a kill of some TCEs kills all of the PE.
    pub(crate) kills_pe: bool,
    /// PAPR: the hypervisor takes lists.
    pub(crate) multi_tce: bool,
    /// PAPR: a second window may be opened.
    pub(crate) ddw: bool,
    /// PAPR: but not beside the default one, as for SR-IOV functions of PowerVM.
    pub(crate) one_window: bool,
    /// Where the second window begins.
    pub(crate) high_base: u64,
    /// The page sizes of further windows.
    pub(crate) page_sizes: u64,
    /// The administrator wants pages of 4 KiB.
    pub(crate) small_pages: bool,
}

impl Model {
    /// QEMU's pseries.
    pub(crate) const PSERIES: Self = Self {
        kind: Kind::Papr,
        kills_pe: false,
        multi_tce: true,
        ddw: true,
        one_window: false,
        high_base: HIGH_BASE,
        page_sizes: 1 << 12 | 1 << 16 | 1 << 21 | 1 << 24,
        small_pages: false,
    };
    /// A PHB4 or PHB5.
    pub(crate) const PHB4: Self = Self {
        kind: Kind::Ioda,
        kills_pe: true,
        multi_tce: false,
        ddw: false,
        one_window: false,
        high_base: HIGH_BASE,
        page_sizes: 1 << 12 | 1 << 16 | 1 << 21 | 1 << 30,
        small_pages: false,
    };
    /// A PHB3: kills are exact.
    pub(crate) const PHB3: Self = Self {
        kills_pe: false,
        page_sizes: 1 << 12 | 1 << 16 | 1 << 24 | 1 << 28,
        ..Self::PHB4
    };
}

/// What a hook is told about a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// TCEs from this address on are about to be set.
    Set(Ioba),
    /// TCEs from this address on are about to be cleared.
    Clear(Ioba),
    /// TCEs are about to be killed.
    Kill,
    /// A window is about to be opened.
    Open,
    /// A window is about to be closed.
    Close,
}

/// Something that a test does in the middle of a call. It may be atomic context.
pub(crate) type Hook = Arc<dyn Fn(Event) + Send + Sync>;

/// Which calls fail.
#[derive(Clone, Copy)]
enum Fail {
    /// None.
    Never,
    /// The one with this number.
    At(u64),
    /// The one with this number and all after it, as when the PE was removed.
    From(u64),
    /// Those that clear more than one TCE.
    Stuffs,
    /// Those that open this window.
    Opens(WindowNumber),
    /// As many changes of TCEs: the hypervisor is busy.
    Busy(u32),
    /// None, but the PE freezes at the one with this number. Here kills count, too.
    Freeze(u64),
}

/// The hypervisor's table for a window.
struct Copied {
    /// As few parts as possible, because a window has millions of TCEs.
    parts: KVVec<Option<KBox<[Tce; Copied::PART]>>>,
}

impl Copied {
    const PART: usize = 512;

    fn new(tces: Tces) -> Result<Self> {
        let mut parts = KVVec::new();
        exempt(|| {
            for _ in 0..tces.get().div_ceil(Self::PART as u64) {
                parts.push(None, GFP_KERNEL)?;
            }
            Ok(Self { parts })
        })
    }

    fn get(&self, index: usize) -> Tce {
        let part = self.parts.get(index / Self::PART).and_then(Option::as_ref);
        part.map_or(Tce::NONE, |part| part[index % Self::PART])
    }

    fn set(&mut self, index: usize, tce: Tce) -> Result {
        let part = self.parts.get_mut(index / Self::PART).ok_or(EINVAL)?;
        if part.is_none() && tce.is_present() {
            let empty = [Tce::NONE; Self::PART];
            *part = Some(exempt(|| KBox::new(empty, GFP_ATOMIC))?);
        }
        if let Some(part) = part {
            part[index % Self::PART] = tce;
        }
        Ok(())
    }
}

/// An open window.
struct Opened {
    window: Window,
    /// IODA: what the TVE points at.
    root: Option<Root>,
    /// PAPR: the hypervisor's table.
    table: Copied,
}

impl Opened {
    /// PAPR: whether the hypervisor's table has TCEs.
    fn has_tces(&self) -> bool {
        let mut tces = self
            .table
            .parts
            .iter()
            .flatten()
            .flat_map(|part| part.iter());
        tces.any(|tce| tce.is_present())
    }
}

/// A TCE that the PHB remembers.
struct Cached {
    window: usize,
    index: TceIndex,
    tce: Tce,
}

/// A device of the PE.
struct Known {
    dev: ARef<Device>,
    owner: DmaOwner,
    /// How often `owner` was written.
    writes: usize,
    /// It has a driver that uses the DMA API, with mappings that its owner made.
    in_use: bool,
}

/// A leaf that the PHB remembers the way to.
struct Way {
    window: usize,
    leaf: u64,
    addr: PhysAddr,
}

struct State {
    ddw: bool,
    devices: KVec<Known>,
    platform: bool,
    windows: [Option<Opened>; MAX_WINDOWS],
    /// PAPR: the default window, while it is closed.
    lost: Option<Opened>,
    cache: KVVec<Cached>,
    /// Only a kill of all of the PE ends these.
    ways: KVVec<Way>,
    frozen: bool,
    /// Counts the calls that can fail.
    calls: u64,
    fail: Fail,
    hook: Option<Hook>,
    /// A TCE that cannot be cleared.
    stuck: Option<Ioba>,
    /// The hypervisor has refused to clear a TCE, so the driver may go further than otherwise.
    refused: bool,
    /// The hypervisor does not close a window that has TCEs.
    keeps_dirty: bool,
    /// What no driver should do; none of these is an error for the caller.
    sins: usize,
    kills: usize,
    /// TCEs that were killed one by one.
    single_kills: u64,
    hcalls: usize,
}

/// The firmware below one PE.
#[pin_data]
pub(crate) struct Fake {
    model: Model,
    #[pin]
    state: SpinLockIrq<State>,
}

/// The first LIOBN; a window that is opened again gets the same one.
const LIOBN: u32 = 0x8000_0000;
/// The default window of PAPR: 16 MiB is enough for tests.
const DEFAULT_TCES: u64 = 1 << 12;
/// The largest further window of PAPR: worth opening with pages of 4 KiB too.
const MAX_TCES: u64 = 1 << 21;
/// Where the second window mostly begins.
const HIGH_BASE: u64 = 1 << 59;
/// Where a PHB4 has its 64-bit MMIO; with pages of 64 KiB that is in the low window.
pub(crate) const MMIO64: u64 = 0x6_0000_0000_0000;
pub(crate) const MMIO64_LAST: u64 = 0x6_003f_ffff_ffff;

impl Fake {
    /// A PE that the platform has. May sleep.
    pub(crate) fn new(model: Model) -> Result<Arc<Self>> {
        let mut windows = [None, None];
        if let Kind::Papr = model.kind {
            windows[0] = Some(Self::default_window()?);
        }
        Arc::pin_init(
            pin_init!(Self {
                model,
                state <- new_spinlock_irq!(State {
                    ddw: model.ddw,
                    devices: KVec::new(),
                    platform: true,
                    windows,
                    lost: None,
                    cache: KVVec::new(),
                    ways: KVVec::new(),
                    frozen: false,
                    calls: 0,
                    fail: Fail::Never,
                    hook: None,
                    stuck: None,
                    refused: false,
                    keeps_dirty: false,
                    sins: 0,
                    kills: 0,
                    single_kills: 0,
                    hcalls: 0,
                }),
            }),
            GFP_KERNEL,
        )
    }

    fn default_window() -> Result<Opened> {
        let tces = Tces::new(DEFAULT_TCES);
        Self::opened(
            WindowNumber::Low,
            Ioba::new(0),
            PageShift::SHIFT_4K,
            tces,
            None,
        )
    }

    fn opened(
        num: WindowNumber,
        base: Ioba,
        shift: PageShift,
        tces: Tces,
        root: Option<Root>,
    ) -> Result<Opened> {
        let id = WindowId::new(LIOBN + num.get() as u32);
        let window = Window::new(base, tces, shift, id).ok_or(EINVAL)?;
        let table = Copied::new(match root {
            None => tces,
            Some(_) => Tces::new(0),
        })?;
        Ok(Opened {
            window,
            root,
            table,
        })
    }

    /// Whether further windows may be opened from now on (PAPR).
    pub(crate) fn set_ddw(&self, ddw: bool) {
        self.state.lock().ddw = ddw;
    }

    /// Adds a device to the PE.
    pub(crate) fn add_device(&self, dev: &Device) -> Result {
        let known = Known {
            dev: dev.into(),
            owner: DmaOwner::Platform,
            writes: 0,
            in_use: false,
        };
        exempt(|| Ok(self.state.lock().devices.push(known, GFP_ATOMIC)?))
    }

    fn known<T>(&self, dev: &Device, f: impl FnOnce(&mut Known) -> T) -> Option<T> {
        let mut state = self.state.lock();
        let mut known = state.devices.iter_mut();
        known.find(|known| known.is(dev)).map(f)
    }

    /// Binds a driver that uses the DMA API to a device, or unbinds it.
    pub(crate) fn set_in_use(&self, dev: &Device, in_use: bool) {
        self.known(dev, |known| known.in_use = in_use);
    }

    /// Who maps the DMA of a device, and how often that was written.
    pub(crate) fn owner(&self, dev: &Device) -> Option<(DmaOwner, usize)> {
        self.known(dev, |known| (known.owner, known.writes))
    }

    /// Makes call number `n` from now on (counted from 0) fail.
    pub(crate) fn fail_at(&self, n: u64) {
        self.fail(Fail::At(n));
    }

    /// Makes call number `n` from now on (counted from 0), and all after it, fail.
    pub(crate) fn fail_from(&self, n: u64) {
        self.fail(Fail::From(n));
    }

    /// Makes all calls fail that clear more than one TCE.
    pub(crate) fn fail_stuffs(&self) {
        self.fail(Fail::Stuffs);
    }

    /// Makes all calls fail that open this window.
    pub(crate) fn fail_opens(&self, num: WindowNumber) {
        self.fail(Fail::Opens(num));
    }

    /// Makes the hypervisor busy for the next `n` changes of TCEs.
    pub(crate) fn busy(&self, n: u32) {
        self.fail(Fail::Busy(n));
    }

    /// Freezes the PE at call number `n` from now on (counted from 0).
    pub(crate) fn freeze_at(&self, n: u64) {
        self.fail(Fail::Freeze(n));
    }

    /// Makes no call fail any more.
    pub(crate) fn fail_never(&self) {
        self.fail(Fail::Never);
    }

    fn fail(&self, fail: Fail) {
        let mut state = self.state.lock();
        state.calls = 0;
        state.fail = fail;
    }

    /// Whether the call has come that was to fail, or to freeze the PE.
    pub(crate) fn has_failed(&self) -> bool {
        let state = self.state.lock();
        matches!(state.fail, Fail::At(n) | Fail::From(n) | Fail::Freeze(n) if state.calls > n)
    }

    /// Has `hook` called at each change of TCEs, after the driver has made up its mind.
    pub(crate) fn hook(&self, hook: Option<Hook>) {
        let old = core::mem::replace(&mut self.state.lock().hook, hook);
        drop(old);
    }

    /// Makes the hypervisor refuse to clear the TCE at this address.
    pub(crate) fn stick(&self, ioba: Option<Ioba>) {
        self.state.lock().stuck = ioba;
    }

    /// Makes the hypervisor refuse to close windows that have TCEs.
    pub(crate) fn keep_dirty(&self, keep: bool) {
        self.state.lock().keeps_dirty = keep;
    }

    /// How many windows are open.
    pub(crate) fn open_windows(&self) -> usize {
        self.state.lock().windows.iter().flatten().count()
    }

    /// A device of the PE does DMA. Returns the physical address it reaches.
    ///
    /// [`None`] means that the access was stopped, and froze the PE.
    pub(crate) fn dma(&self, ioba: Ioba, write: bool) -> Option<PhysAddr> {
        let mut state = self.state.lock();
        if state.frozen {
            return None;
        }
        let reached = Self::translate(&mut state, ioba, write);
        state.frozen = reached.is_none();
        reached
    }

    fn translate(state: &mut State, ioba: Ioba, write: bool) -> Option<PhysAddr> {
        let within =
            |opened: &Option<Opened>| opened.as_ref().is_some_and(|w| w.window.contains(ioba));
        let number = state.windows.iter().position(within)?;
        let opened = state.windows.get(number)?.as_ref()?;
        let (window, root) = (opened.window, opened.root);
        let index = window.index_of(ioba)?;
        let cached = state
            .cache
            .iter()
            .find(|c| c.window == number && c.index == index)
            .map(|c| c.tce);
        let tce = match (cached, root) {
            (Some(tce), _) => tce,
            (None, None) => opened.table.get(index.get() as usize),
            (None, Some(root)) => {
                let leaf = index.get() / TceList::LEN as u64;
                let way = state
                    .ways
                    .iter()
                    .find(|way| way.window == number && way.leaf == leaf)
                    .map(|way| way.addr);
                let addr = way.or_else(|| walk(root, index));
                let tce = addr.map_or(Tce::NONE, |addr| {
                    // SAFETY: The driver frees no leaf that a PHB knows the way to.
                    unsafe { TceList::from_phys(addr) }.get(index)
                });
                // Sleeping is not allowed here; a full cache forgets nothing, it just learns no
                // more.
                if let (None, Some(addr)) = (way, addr) {
                    let way = Way {
                        window: number,
                        leaf,
                        addr,
                    };
                    exempt(|| state.ways.push(way, GFP_ATOMIC)).ok();
                }
                let entry = Cached {
                    window: number,
                    index,
                    tce,
                };
                exempt(|| state.cache.push(entry, GFP_ATOMIC)).ok();
                tce
            }
        };
        let allowed = match write {
            true => tce.can_write(),
            false => tce.can_read(),
        };
        allowed.then(|| tce.addr() | window.shift.offset(ioba.get()))
    }

    /// Where a device of the PE would get to. Other than a DMA it does not freeze the PE.
    pub(crate) fn probe(&self, ioba: Ioba, write: bool) -> Option<PhysAddr> {
        Self::translate(&mut self.state.lock(), ioba, write)
    }

    /// Calls `f` with the physical address of each page that a device of the PE reaches.
    pub(crate) fn for_each_reached(&self, mut f: impl FnMut(PhysAddr)) {
        let state = self.state.lock();
        let mut page = |tce: Tce| {
            if tce.is_present() {
                f(tce.addr());
            }
        };
        for opened in state.windows.iter().flatten() {
            let parts = opened.table.parts.iter().flatten();
            parts
                .flat_map(|part| part.iter())
                .copied()
                .for_each(&mut page);
            if let Some(root) = opened.root {
                for_each_tce(root.addr, root.levels.get(), &mut page);
            }
        }
        state
            .cache
            .iter()
            .map(|cached| cached.tce)
            .for_each(&mut page);
        for way in &state.ways {
            for_each_tce(way.addr, 1, &mut page);
        }
    }

    /// Ends a freeze, as error recovery does.
    pub(crate) fn thaw(&self) {
        self.state.lock().frozen = false;
    }

    /// Whether the platform has the PE.
    pub(crate) fn is_platform(&self) -> bool {
        self.state.lock().platform
    }

    /// Whether the platform has the PE, as it was before the driver came.
    pub(crate) fn is_as_before(&self) -> bool {
        let state = self.state.lock();
        let [low, high] = &state.windows;
        let low_is = match self.model.kind {
            Kind::Papr => low.as_ref().is_some_and(|w| !w.has_tces()),
            Kind::Ioda => low.is_none(),
        };
        state.platform && low_is && high.is_none()
    }

    /// Whether changes of TCEs have to be followed by kills.
    pub(crate) fn has_kill(&self) -> bool {
        self.model.kind == Kind::Ioda
    }

    /// Violations of the interface so far.
    pub(crate) fn sins(&self) -> usize {
        self.state.lock().sins
    }

    /// Kills so far.
    pub(crate) fn kills(&self) -> usize {
        self.state.lock().kills
    }

    /// TCEs so far that were killed one by one.
    pub(crate) fn single_kills(&self) -> u64 {
        self.state.lock().single_kills
    }

    /// Hypercalls so far.
    pub(crate) fn hcalls(&self) -> usize {
        self.state.lock().hcalls
    }

    /// Counts a call; says whether it is the one to fail.
    fn call(state: &mut State) -> bool {
        let now = state.calls;
        state.calls += 1;
        match state.fail {
            Fail::Never | Fail::Stuffs | Fail::Opens(_) | Fail::Busy(_) => false,
            Fail::At(n) => now == n,
            Fail::From(n) => now >= n,
            Fail::Freeze(n) => {
                state.frozen |= now == n;
                false
            }
        }
    }

    /// Counts the leaves that the PHB still gets to and the driver has freed.
    fn look_at_ways(state: &mut State) {
        let windows = &state.windows;
        let lost = |way: &&Way| {
            let root = windows
                .get(way.window)
                .and_then(|opened| opened.as_ref()?.root);
            let index = TceIndex::new(way.leaf * TceList::LEN as u64);
            !root.is_some_and(|root| owns(root, index, way.addr))
        };
        state.sins += state.ways.iter().filter(lost).count();
    }

    /// Runs the hook.
    fn tell(&self, event: Event) {
        let hook = self.state.lock().hook.clone();
        if let Some(hook) = hook {
            hook(event);
        }
    }

    /// Changes TCEs from `ioba` on of the window with `liobn`; `tce(i)` is the one for the `i`-th.
    ///
    /// If the call is to fail, it does so after half of them.
    fn change(
        &self,
        liobn: Liobn,
        event: Event,
        ioba: Ioba,
        n: usize,
        tce: impl Fn(usize) -> Tce,
    ) -> Result<(), Refused> {
        self.tell(event);
        let refuse = |code| Refused { code, error: EIO };
        let mut state = self.state.lock();
        state.hcalls += 1;
        if let Fail::Busy(left) = &mut state.fail {
            if let Some(fewer) = left.checked_sub(1) {
                *left = fewer;
                state.refused |= matches!(event, Event::Clear(_));
                return Err(Refused {
                    code: H_BUSY,
                    error: EBUSY,
                });
            }
        }
        let mut fails = Self::call(&mut state);
        fails |= matches!((state.fail, event), (Fail::Stuffs, Event::Clear(_)) if n > 1);
        if state.platform {
            state.sins += 1;
        }
        let stuck = state.stuck.filter(|_| matches!(event, Event::Clear(_)));
        let found = state
            .windows
            .iter_mut()
            .flatten()
            .find(|w| w.window.id.liobn() == liobn);
        let range = found.and_then(|w| {
            let first = w.window.index_of(ioba)?.get() as usize;
            let fits = first.checked_add(n)? <= w.window.tces.get() as usize;
            let stuck = stuck.and_then(|at| w.window.index_of(at));
            let stuck = stuck.and_then(|at| (at.get() as usize).checked_sub(first));
            fits.then_some((&mut w.table, first, stuck.filter(|at| *at < n)))
        });
        let (Some((table, first, stuck)), 1..=TceList::LEN) = (range, n) else {
            // The name that no window has is for windows that had to be closed.
            let excused = state.refused && liobn.get() == u32::MAX;
            state.sins += usize::from(!excused);
            return Err(refuse(H_PARAMETER));
        };
        let done = stuck.unwrap_or(if fails { n / 2 } else { n });
        fails |= stuck.is_some();
        for i in 0..done {
            fails |= table.set(first + i, tce(i)).is_err();
        }
        if fails {
            state.refused |= matches!(event, Event::Clear(_));
            return Err(refuse(H_HARDWARE));
        }
        Ok(())
    }
}

/// Walks a table in memory to its leaf, as the hardware does.
fn walk(root: Root, index: TceIndex) -> Option<PhysAddr> {
    descend(root, index, 1)
}

/// Whether the leaf of `index` is the one at `addr`, be it that hardware gets there or not.
fn owns(root: Root, index: TceIndex, addr: PhysAddr) -> bool {
    let slot = TceIndex::new(index.get() / TceList::LEN as u64);
    match descend(root, index, 2) {
        Some(above) if root.levels.get() > 1 => {
            // SAFETY: As in `descend`.
            let above = unsafe { TceList::from_phys(above) };
            above.get(slot).addr() == addr
        }
        _ => root.addr == addr,
    }
}

/// Walks a table to a node `to` levels above the pages.
fn descend(root: Root, index: TceIndex, to: u32) -> Option<PhysAddr> {
    let mut addr = root.addr;
    for level in (to..root.levels.get()).rev() {
        let slot = index.get() >> (level * root.level_tces.get().ilog2());
        // SAFETY: The driver gave the root of a table; a node stays as long as the window is open,
        // or until a PHB does not get to it any more.
        let tce = unsafe { TceList::from_phys(addr) }.get(TceIndex::new(slot));
        if !tce.is_present() {
            return None;
        }
        addr = tce.addr();
    }
    Some(addr)
}

/// Calls `f` with each TCE below the node at `addr`, which is one of `levels` levels.
fn for_each_tce(addr: PhysAddr, levels: u32, f: &mut impl FnMut(Tce)) {
    for index in 0..TceList::LEN as u64 {
        // SAFETY: As in `walk`.
        let tce = unsafe { TceList::from_phys(addr) }.get(TceIndex::new(index));
        if levels == 1 {
            f(tce);
        } else if tce.is_present() {
            for_each_tce(tce.addr(), levels - 1, f);
        }
    }
}

impl Calls for Fake {
    unsafe fn query(&self, _: &Device) -> Result<Query> {
        let mut state = self.state.lock();
        let refused = Self::call(&mut state);
        if refused && self.model.kind == Kind::Ioda {
            return Err(EIO);
        }
        let id = |n| WindowId::new(LIOBN + n);
        let shift = PageShift::SHIFT_4K;
        let (windows, max_levels) = match self.model.kind {
            Kind::Papr => {
                let window = |n: usize| state.windows[n].as_ref().map(|w| w.window);
                ([window(0), window(1)], None)
            }
            Kind::Ioda => {
                let window = |n: u32| {
                    let base = Ioba::new(u64::from(n) * HIGH_BASE);
                    Window::new(base, Tces::new(HIGH_BASE >> 12), shift, id(n))
                };
                ([window(0), window(1)], Levels::new(5))
            }
        };
        // What RTAS does not say, as with `spapr_tce_query()`, is whether a window would find room.
        let room = !refused
            && match &state.windows {
                [Some(_), _] => state.ddw && !self.model.one_window,
                [None, _] => state.ddw,
            };
        Ok(Query {
            firmware: self.model.kind,
            nr_windows: if (room && !self.model.one_window) || max_levels.is_some() || refused {
                2
            } else {
                1
            },
            page_sizes: PageShifts::new(if refused { 0 } else { self.model.page_sizes }),
            max_tces: Tces::new(if room { MAX_TCES } else { 0 }),
            max_levels,
            windows,
            mmio32: max_levels.map(|_| Ioba::new(0x8000_0000)..=Ioba::new(0xffff_ffff)),
            mmio64: max_levels.map(|_| Ioba::new(MMIO64)..=Ioba::new(MMIO64_LAST)),
        })
    }

    fn max_ram() -> PhysAddr {
        4 << 30
    }

    unsafe fn set_platform(&self, _: &Device, on: bool) -> Result {
        let default = Self::default_window()?;
        let mut state = self.state.lock();
        if Self::call(&mut state) {
            // Half of it is done.
            state.platform &= on;
            let papr = matches!(self.model.kind, Kind::Papr);
            let old = state.windows[1].take_if(|_| papr && on);
            drop(state);
            drop(old);
            return Err(EIO);
        }
        let [low, high] = &mut state.windows;
        if matches!(self.model.kind, Kind::Papr) && low.is_none() {
            *low = Some(default);
        }
        // The window of PAPR is there at all times, and is given and taken without TCEs.
        let old = match self.model.kind {
            Kind::Papr => [None, high.take()],
            Kind::Ioda => [low.take(), high.take()],
        };
        let left = [low.as_ref(), old[1].as_ref()]
            .into_iter()
            .flatten()
            .any(Opened::has_tces);
        state.sins += usize::from(left && !state.refused);
        let disturbed = |known: &Known| known.in_use && known.owner == DmaOwner::Platform;
        state.sins += state
            .devices
            .iter()
            .filter(|known| disturbed(known))
            .count();
        state.cache.clear();
        state.ways.clear();
        state.platform = on;
        drop(state);
        drop(old);
        Ok(())
    }

    unsafe fn open_window(
        &self,
        _: &Device,
        num: WindowNumber,
        root: Option<Root>,
        shift: PageShift,
        tces: Tces,
    ) -> Result<Window> {
        self.tell(Event::Open);
        let base = Ioba::new(num.get() as u64 * self.model.high_base);
        let new = Self::opened(num, base, shift, tces, root)?;
        let window = new.window;
        let mut state = self.state.lock();
        let fails = matches!(state.fail, Fail::Opens(which) if which == num);
        if Self::call(&mut state) || fails {
            return Err(EIO);
        }
        let papr = matches!(self.model.kind, Kind::Papr);
        let fits = if papr {
            let room = state.ddw && !(self.model.one_window && state.windows[0].is_some());
            num == WindowNumber::High && room && root.is_none() && tces.get() <= MAX_TCES
        } else {
            // The walk must reach exactly the TCEs of the window.
            root.is_some_and(|r| {
                r.levels.tces() == tces && r.level_tces.get() == TceList::LEN as u64
            })
        };
        let fits = fits && self.model.page_sizes & shift.bytes() != 0;
        let free = state.windows[num.get()].is_none();
        if state.platform || !fits || !free {
            state.sins += 1;
            return Err(EINVAL);
        }
        state.cache.retain(|c| c.window != num.get());
        state.ways.retain(|way| way.window != num.get());
        state.windows[num.get()] = Some(new);
        Ok(window)
    }

    unsafe fn close_window(&self, _: &Device, num: WindowNumber) -> Result {
        self.tell(Event::Close);
        let mut state = self.state.lock();
        if Self::call(&mut state) {
            return Err(EIO);
        }
        if matches!(self.model.kind, Kind::Papr) && num == WindowNumber::Low {
            if !state.ddw || state.windows[num.get()].is_none() {
                return Err(ENODEV);
            }
            // Devices that drive 32 bits have nothing else.
            state.sins += usize::from(!self.model.one_window && !state.refused);
        }
        let dirty = state.windows[num.get()].iter().any(Opened::has_tces);
        if dirty && state.keeps_dirty {
            return Err(EIO);
        }
        let mut old = state.windows[num.get()].take();
        if matches!(self.model.kind, Kind::Papr) {
            // LoPAR: the default window comes back when the last one goes, with what it had.
            let state = &mut *state;
            match num {
                WindowNumber::Low => core::mem::swap(&mut old, &mut state.lost),
                WindowNumber::High if state.windows[0].is_none() => {
                    state.windows[0] = state.lost.take();
                }
                WindowNumber::High => (),
            }
        }
        // PAPR wants the TCEs cleared first.
        state.sins += usize::from(dirty && !state.refused);
        state.cache.retain(|c| c.window != num.get());
        state.ways.retain(|way| way.window != num.get());
        drop(state);
        drop(old);
        Ok(())
    }

    fn kill(&self, run: Option<(Ioba, Tces, PageShift)>) {
        self.tell(Event::Kill);
        let mut state = self.state.lock();
        if let Fail::Freeze(_) = state.fail {
            Self::call(&mut state);
        }
        state.kills += 1;
        state.sins += usize::from(state.platform);
        Self::look_at_ways(&mut state);
        match run {
            Some((first, count, shift)) if !self.model.kills_pe => {
                let number = (first.get() >> 59 & 1) as usize;
                let first = shift.pages(first.get() - number as u64 * HIGH_BASE);
                state.single_kills += count.get();
                let killed = first..first + count.get();
                state
                    .cache
                    .retain(|c| c.window != number || !killed.contains(&c.index.get()));
            }
            _ => {
                state.cache.clear();
                state.ways.clear();
            }
        }
    }

    fn code_name(code: c_long) -> &'static str {
        match code {
            H_PARAMETER => "H_PARAMETER",
            H_BUSY => "H_BUSY",
            _ => "H_HARDWARE",
        }
    }

    fn multi_tce(&self) -> bool {
        self.model.multi_tce
    }

    unsafe fn put(&self, liobn: Liobn, ioba: Ioba, tce: Tce) -> Result<(), Refused> {
        let event = match tce.is_present() {
            true => Event::Set(ioba),
            false => Event::Clear(ioba),
        };
        self.change(liobn, event, ioba, 1, |_| tce)
    }

    unsafe fn put_indirect(
        &self,
        liobn: Liobn,
        ioba: Ioba,
        list: &TceList,
        n: Tces,
    ) -> Result<(), Refused> {
        if !self.model.multi_tce {
            self.state.lock().sins += 1;
        }
        self.change(liobn, Event::Set(ioba), ioba, n.get() as usize, |i| {
            list.get(TceIndex::new(i as u64))
        })
    }

    unsafe fn stuff(&self, liobn: Liobn, ioba: Ioba, n: Tces) -> Result<(), Refused> {
        if !self.model.multi_tce {
            self.state.lock().sins += 1;
        }
        self.change(liobn, Event::Clear(ioba), ioba, n.get() as usize, |_| {
            Tce::NONE
        })
    }
}

impl Known {
    fn is(&self, dev: &Device) -> bool {
        core::ptr::eq::<Device>(&*self.dev, dev)
    }
}

impl Devices for Fake {
    fn for_each_device(&self, f: &mut dyn FnMut(&Device)) {
        let get = |n| {
            self.state
                .lock()
                .devices
                .get(n)
                .map(|known: &Known| known.dev.clone())
        };
        (0..).map_while(get).for_each(|dev| f(&dev));
    }

    fn if_idle(&self, dev: &Device, f: &mut dyn FnMut()) -> bool {
        let idle = self.known(dev, |known| !known.in_use) == Some(true);
        if idle {
            f();
        }
        idle
    }

    unsafe fn set_dma_owner(&self, dev: &Device, owner: DmaOwner) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let platform = state.platform;
        let Some(known) = state.devices.iter_mut().find(|known| known.is(dev)) else {
            state.sins += 1;
            return;
        };
        let disturbed = known.in_use && known.owner == DmaOwner::Platform;
        // The platform maps nothing in windows that it does not have.
        let wrong = owner == DmaOwner::Platform && !platform;
        state.sins += usize::from(disturbed) + usize::from(wrong);
        known.owner = owner;
        known.writes += 1;
    }
}
