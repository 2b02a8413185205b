#[test]
fn seed_8() {
    use crdtfs_testkit::{Action::*, Step, replay};
    let steps = [
        Step { device: 0, action: Mkdir, picks: [0, 0, 1] },
        Step { device: 1, action: Create, picks: [0, 0, 1] },
        Step { device: 1, action: Sync, picks: [0, 0, 1] },
        Step { device: 1, action: RenameInPlace, picks: [0, 0, 0] },
    ];
    replay(8, &steps, true).unwrap();
}
