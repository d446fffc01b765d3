// SPDX-License-Identifier: GPL-2.0

//! Tests of bonds that open files have, through the real IOMMU core.

#[macros::kunit_tests(rust_iommu_sva_bonds)]
mod tests {
    use super::super::{
        mock::*,
        sva::*,
        sva_mock::*,
        *, //
    };
    use crate::{
        device::{
            Bound,
            Core,
            Device, //
        },
        mm::MmWithUser,
        prelude::*,
        sync::{
            atomic::Relaxed,
            Arc, //
        }, //
    };

    /// Opens a file in a process.
    fn open(bonds: &Arc<SvaBonds>, mm: &MmWithUser) -> Result<SvaFileBond, BindError> {
        with_mm(mm, || bonds.bind_current(crate::current!()))
    }

    /// What the `unbind` of a driver does.
    fn close(bonds: &SvaBonds, dev: &Device<Bound>) {
        // SAFETY: The device has its driver, which is not unbound meanwhile.
        bonds.close(unsafe { Device::<Core<'_>>::from_raw(dev.as_raw()) });
    }

    fn pasid(file: &SvaFileBond) -> Option<Pasid> {
        file.with(|_, bond| bond.pasid())
    }

    #[test]
    fn a_file_is_bound_until_it_is_closed() -> Result {
        let (bed, first, second) = (new_bed(&[(0, Some(5))])?, new_mm()?, new_mm()?);
        let bonds = SvaBonds::new(bed.dev(0)?)?;
        let (one, two) = (open(&bonds, &first)?, open(&bonds, &second)?);
        let again = open(&bonds, &second)?;
        check!(bed.log.pasids.load(Relaxed) == 2);
        let last = pasid(&again);
        check!(pasid(&two) == last && last.is_some() && pasid(&one) != last);
        drop(two);
        check!(pasid(&again) == last && pasid(&one).is_some());
        drop(again);
        check!(bed.log.pasids.load(Relaxed) == 1);
        drop(one);
        check!(bed.log.pasids.load(Relaxed) == 0);
        close(&bonds, bed.dev(0)?);
        Ok(())
    }

    #[test]
    fn a_driver_that_goes_takes_the_bonds_of_files() -> Result {
        let (bed, mm) = (new_bed(&[(0, Some(5)), (1, Some(5))])?, new_mm()?);
        let bonds = SvaBonds::new(bed.dev(0)?)?;
        let file = open(&bonds, &mm)?;
        // The lock of another device is not the one that counts.
        close(&bonds, bed.dev(1)?);
        check!(pasid(&file).is_some() && bonds.while_bound(|_| ()).is_some());
        close(&bonds, bed.dev(0)?);
        check!(bed.log.pasids.load(Relaxed) == 0);
        check!(pasid(&file).is_none() && bonds.while_bound(|_| ()).is_none());
        let late = file.prefault(UserPtr::from_addr(AREA), 1, Access::Read);
        check!(late.err() == Some(PrefaultError::Other(ENODEV)));
        check!(open(&bonds, &mm).err() == Some(BindError::Other(ENODEV)));
        Ok(())
    }

    // A child has the file, and other memory at the same addresses.
    #[test]
    fn a_file_belongs_to_one_process() -> Result {
        let (bed, parent, child) = (new_bed(&[(0, Some(5))])?, new_mm()?, new_mm()?);
        let bonds = SvaBonds::new(bed.dev(0)?)?;
        let file = open(&bonds, &parent)?;
        let is_of = |mm: &MmWithUser| with_mm(mm, || file.is_of(crate::current!()));
        check!(is_of(&parent) && !is_of(&child));
        check!(!file.is_of(crate::current!()));
        check!(bonds.bind_current(crate::current!()).err() == Some(BindError::NoMm));
        drop(file);
        close(&bonds, bed.dev(0)?);
        Ok(())
    }
}
