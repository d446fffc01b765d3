// SPDX-License-Identifier: GPL-2.0

//! A process that has a window ends, in every order of what can end it.

use crate::{
    fake::Model,
    pe::Target,
    tests::{
        ensure,
        process::Bed,
        Rig,
        ONE_BY_ONE, //
    }, //
};
use kernel::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The process exits: its pages are taken out of the tables.
    Exit,
    /// The driver of the device drops its bond.
    Unbind,
    /// The device goes.
    Unplug,
    /// The device gets another domain and comes back to the old one, or is plugged again.
    Attach,
}

const EVENTS: [Event; 4] = [Event::Exit, Event::Unbind, Event::Unplug, Event::Attach];

/// Every order of the events.
fn orders() -> impl Iterator<Item = [Event; 4]> {
    (0..256_usize).filter_map(|code| {
        let picks = [0, 2, 4, 6].map(|shift| code >> shift & 3);
        let all = picks.iter().fold(0, |all, pick| all | 1 << pick) == 0b1111;
        all.then(|| picks.map(|pick| EVENTS[pick]))
    })
}

fn play(rig: &Rig, order: [Event; 4]) -> Result {
    let bed = Bed::new(rig)?;
    let mut plugged = Some(bed.pe.clone());
    bed.lend()?;
    bed.fill()?;
    ensure(bed.reaches_process(), "the process is there")?;
    for event in order {
        match (event, &plugged) {
            (Event::Exit, _) => bed.empty(),
            (Event::Unbind, _) => bed.reclaim(),
            (Event::Unplug, None) => (),
            (Event::Unplug, Some(pe)) => {
                rig.leave(pe);
                ensure(rig.fake.is_as_before(), "the platform has the PE")?;
                plugged = None;
            }
            (Event::Attach, Some(pe)) => {
                rig.attach(pe, &Target::Blocked)?;
                rig.attach(pe, &Target::Paging(&bed.kernel))?;
            }
            (Event::Attach, None) => {
                let pe = rig.pe()?;
                rig.attach(&pe, &Target::Paging(&bed.kernel))?;
                plugged = Some(pe);
            }
        }
        // Each of them ends it, and the first one for ever.
        ensure(!bed.reaches_process(), "the process is out")?;
        ensure(
            bed.reaches_kernel() == plugged.is_some(),
            "the kernel has what it had",
        )?;
        let Some(pe) = &plugged else {
            continue;
        };
        let is_lent = pe.process().is_some();
        ensure(
            !is_lent || matches!(event, Event::Exit),
            "nobody has the window",
        )?;
        if !is_lent {
            bed.is_over()?;
            // The tables of the process are nobody's.
            bed.empty();
            bed.fill()?;
            ensure(
                !bed.reaches_process(),
                "what is mapped later is not reached",
            )?;
        }
    }
    if let Some(pe) = plugged {
        rig.leave(&pe);
    }
    ensure(rig.fake.is_as_before(), "the platform has the PE")
}

#[kunit_tests(tce_orders)]
mod tests {
    use super::*;

    #[test]
    fn every_order_of_exit_unbind_unplug_and_attach() -> Result {
        assert_eq!(orders().count(), 24);
        for model in [Model::PSERIES, ONE_BY_ONE, Model::PHB3, Model::PHB4] {
            for order in orders() {
                let rig = Rig::new(model)?;
                play(&rig, order).inspect_err(|_| pr_err!("in the order {order:?}\n"))?;
                rig.check()?;
            }
        }
        Ok(())
    }
}
