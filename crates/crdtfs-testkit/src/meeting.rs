//! Devices that part and meet, as the named histories of the merge tell them.

use crdtfs_core::view::View;

use crate::Device;

/// Two devices that share what `setup` made on the first.
#[expect(clippy::missing_panics_doc, reason = "it is how a test fails")]
pub fn two(setup: impl FnOnce(&mut Device)) -> (Device, Device) {
    let (mut a, mut b) = (Device::new("ann", 1), Device::new("bob", 2));
    setup(&mut a);
    b.sync_from(&a);
    assert_eq!(a.dump(), b.dump());
    (a, b)
}

/// Lets devices exchange all, and checks that they agree, that the order of arrival does not matter, and that looking
/// wrote nothing.
#[expect(clippy::missing_panics_doc, reason = "it is how a test fails")]
pub fn meet(devices: &mut [&mut Device]) {
    for _ in 0..2 {
        for i in 0..devices.len() {
            for j in 0..devices.len() {
                if i != j {
                    let (low, high) = devices.split_at_mut(i.max(j));
                    let (to, from) = if i < j { (&mut low[i], &high[0]) } else { (&mut high[0], &low[j]) };
                    to.sync_from(from);
                }
            }
        }
    }
    let first = devices[0].dump();
    for device in devices.iter() {
        assert_eq!(first, device.dump(), "{} and {} differ", devices[0].name, device.name);
        assert_eq!(device.log.len(), devices[0].log.len());
        let mut scratch = Device::new("scratch", 9);
        scratch.sync_from(device);
        assert_eq!(scratch.dump(), first, "from scratch");
        let mut reversed: Vec<_> = device.log.clone();
        reversed.reverse();
        assert_eq!(View::from_records(&reversed).problems(), device.view.problems());
    }
}

/// The names in a directory that are those of conflict copies.
pub fn copies(device: &Device, dir: &str) -> Vec<String> {
    device.ls(dir).into_iter().filter(|name| name.contains("(conflict ")).collect()
}
