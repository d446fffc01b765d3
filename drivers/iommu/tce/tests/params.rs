// SPDX-License-Identifier: GPL-2.0

//! What an administrator may say when the driver is loaded.

use crate::params::{
    max_page,
    PciList, //
};
use kernel::{
    b_str,
    fmt,
    module_param::ModuleParam,
    powerpc::window::PageShift,
    prelude::*,
    str::{
        BStr,
        CString, //
    }, //
};

/// What sysfs shows of a list.
fn shown(text: &BStr) -> Result<CString> {
    struct Show(PciList);

    impl fmt::Display for Show {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.show(f)
        }
    }
    CString::try_from_fmt(fmt!("{}", Show(PciList::try_from_param_arg(text)?)))
}

#[kunit_tests(tce_params)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_of_two_sizes() {
        assert_eq!(max_page(12).ok(), PageShift::new(12));
        assert_eq!(max_page(16).ok(), PageShift::new(16));
        for wrong in [0, 5, 11, 13, 17, 63, 64, 99, u32::MAX] {
            assert!(max_page(wrong) == Err(EINVAL));
        }
    }

    // A name may be wrong, or of a device that comes later.
    #[test]
    fn devices_may_be_missing() -> Result {
        let list = PciList::try_from_param_arg(b_str!("0fff:00:00.0,0fff:00:00.1"))?;
        let mut missing = list.missing();
        assert!(missing.next() == Some(b"0fff:00:00.0".as_slice()));
        assert!(missing.next() == Some(b"0fff:00:00.1".as_slice()));
        assert!(missing.next().is_none());
        Ok(())
    }

    #[test]
    fn lists_are_of_addresses() -> Result {
        for good in [
            b_str!(""),
            b_str!("0001:00:00.0"),
            b_str!("0001:00:00.0,10000:ff:1f.7,"),
        ] {
            assert_eq!(shown(good)?.to_bytes(), &**good);
        }
        for wrong in [
            b_str!("nvme"),
            b_str!("00:00.0"),
            b_str!("001:00:00.0"),
            b_str!("0001:00:00.8"),
            b_str!("0001:00:00"),
            b_str!("0001:00:00.0 "),
            b_str!("0001:0A:00.0"),
            b_str!("0001:00:00.0;0002:00:00.0"),
        ] {
            assert!(shown(wrong).err() == Some(EINVAL));
        }
        assert!(shown(BStr::from_bytes(&[b','; 256])).err() == Some(ENOSPC));
        Ok(())
    }
}
