//! Each rule of the merge switched off: the simulator, or a history made for it, must notice.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stdout, reason = "which seed noticed what goes into docs/SIMULATION.md")]

use crdtfs_core::view::Mutation;
use crdtfs_testkit::{Device, SimConfig, simulate_without};

/// Worlds within which the simulator has to notice.
const SEEDS: u64 = 3000;

#[test]
fn the_simulator_notices() {
    let config = SimConfig { devices: 3, operations: 20, thorough: false };
    for rule in Mutation::ALL {
        let first = (0..SEEDS).find_map(|seed| Some((seed, simulate_without(rule, seed, &config).err()?)));
        let (seed, why) = first.unwrap_or_else(|| panic!("{rule:?} was missed by {SEEDS} seeds"));
        println!("{rule:?}: seed {seed}: {}", why.lines().next().unwrap_or_default());
    }
}

#[test]
fn a_history_notices() {
    for rule in Mutation::ALL {
        let holds = |rule: Option<Mutation>, of: Mutation| {
            // Ranks among concurrent versions are as good as random: of some tries one shows it.
            (0..32).all(|seed| std::panic::catch_unwind(|| history(of, &World { rule, seed })).is_ok_and(|holds| holds))
        };
        assert!(holds(None, rule), "{rule:?}: the history does not hold with all rules");
        assert!(!holds(Some(rule), rule), "{rule:?}: the history does not notice");
    }
}

struct World {
    rule: Option<Mutation>,
    seed: u64,
}

impl World {
    fn device(&self, name: &str, like: Option<&Device>) -> Device {
        let mut device = Device::without(name, self.seed, self.rule);
        if let Some(other) = like {
            device.sync_from(other);
        }
        device
    }

    fn two(&self, setup: impl FnOnce(&mut Device)) -> (Device, Device) {
        let mut a = self.device("ann", None);
        setup(&mut a);
        let b = self.device("bob", Some(&a));
        (a, b)
    }
}

fn meet(a: &mut Device, b: &mut Device) {
    a.sync_from(b);
    b.sync_from(a);
    assert_eq!(a.dump(), b.dump());
}

fn copies(device: &Device) -> Vec<String> {
    device.ls("").into_iter().filter(|name| name.contains("(conflict ")).collect()
}

const LINES: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";

/// Whether the history made for a rule goes as it should.
fn history(of: Mutation, world: &World) -> bool {
    match of {
        Mutation::Pins => the_other_keeps_its_name(world),
        Mutation::DeleteSeen => an_edited_file_survives(world),
        Mutation::DeletionSaidAgain => a_name_removed_long_ago_stays_gone(world),
        Mutation::FieldStamps => chmod_and_edit_both_apply(world),
        Mutation::Saw => permissions_outlive_the_close_of_what_was_open(world),
        Mutation::Promotion => copies_stay_when_their_holder_moves(world),
        Mutation::TwinAdoption => a_deletion_deletes_all_that_a_file_is(world),
        Mutation::BaseRule => a_line_added_twice_is_there_once(world),
        Mutation::Recursion => tails_that_were_merged_are_there_once(world),
    }
}

fn the_other_keeps_its_name(world: &World) -> bool {
    let (mut a, mut b) = world.two(|_| {});
    a.write("f", "x").unwrap();
    b.write("f", "y").unwrap();
    meet(&mut a, &mut b);
    let copy = copies(&a)[0].clone();
    a.mv("f", "g").unwrap();
    meet(&mut a, &mut b);
    a.ls("") == [copy.as_str(), "g"]
}

fn an_edited_file_survives(world: &World) -> bool {
    let (mut a, mut b) = world.two(|a| _ = a.write("f", "base"));
    a.write("f", "edited").unwrap();
    b.unlink("f").unwrap();
    meet(&mut a, &mut b);
    a.read("f").as_deref() == Some("edited")
}

fn a_name_removed_long_ago_stays_gone(world: &World) -> bool {
    let (mut a, mut b) = world.two(|a| {
        a.write("f", "base").unwrap();
        a.link("f", "g").unwrap();
        a.link("f", "h").unwrap();
        a.unlink("h").unwrap();
        a.write("f", "edited").unwrap();
    });
    a.unlink("f").unwrap();
    b.unlink("g").unwrap();
    meet(&mut a, &mut b);
    a.ls("").is_empty()
}

fn chmod_and_edit_both_apply(world: &World) -> bool {
    let (mut a, mut b) = world.two(|a| _ = a.write("f", b"\0base"));
    a.chmod("f", 0o600).unwrap();
    b.write("f", b"\0edited").unwrap();
    meet(&mut a, &mut b);
    a.ls("") == ["f"] && a.read("f").as_deref() == Some("\0edited") && a.find("f").unwrap().mode == 0o600
}

fn permissions_outlive_the_close_of_what_was_open(world: &World) -> bool {
    let (mut a, mut b) = world.two(|a| _ = a.write("f", LINES));
    a.write("f", format!("one\n{LINES}")).unwrap();
    let open = a.find("f").unwrap().basis;
    b.write("f", format!("{LINES}two\n")).unwrap();
    b.chmod("f", 0o640).unwrap();
    meet(&mut a, &mut b);
    a.chmod("f", 0o600).unwrap();
    a.write_with_basis("f", format!("one more\n{LINES}").as_bytes(), open).unwrap();
    meet(&mut a, &mut b);
    copies(&a).is_empty() && b.find("f").unwrap().mode == 0o600
}

fn copies_stay_when_their_holder_moves(world: &World) -> bool {
    let (mut a, mut b) = world.two(|a| _ = a.write("f", b"\0base"));
    a.write("f", b"\0one").unwrap();
    b.write("f", b"\0two").unwrap();
    meet(&mut a, &mut b);
    let copy = copies(&a)[0].clone();
    a.mv("f", "g").unwrap();
    meet(&mut a, &mut b);
    b.ls("") == [copy.as_str(), "g"]
}

fn a_deletion_deletes_all_that_a_file_is(world: &World) -> bool {
    let (mut a, mut b) = world.two(|_| {});
    a.write("f", "x").unwrap();
    b.write("f", "x").unwrap();
    meet(&mut a, &mut b);
    b.unlink("f").unwrap();
    meet(&mut a, &mut b);
    a.ls("").is_empty()
}

fn a_line_added_twice_is_there_once(world: &World) -> bool {
    let (mut a, mut b) = world.two(|a| _ = a.write("f", LINES));
    a.write("f", format!("{LINES}10\n")).unwrap();
    meet(&mut a, &mut b);
    a.write("f", format!("{LINES}10\n11\n")).unwrap();
    b.write("f", format!("{LINES}10\n12\n")).unwrap();
    meet(&mut a, &mut b);
    copies(&a).is_empty() && a.read("f").unwrap().matches("10").count() == 1
}

fn tails_that_were_merged_are_there_once(world: &World) -> bool {
    let (mut a, mut b) = world.two(|a| _ = a.write("f", "base\n"));
    a.write("f", "base\nann\n").unwrap();
    b.write("f", "base\nbob\n").unwrap();
    meet(&mut a, &mut b);
    let merged = a.read("f").unwrap();
    a.write("f", format!("{merged}of ann\n")).unwrap();
    b.write("f", format!("{merged}of bob\n")).unwrap();
    meet(&mut a, &mut b);
    copies(&a).is_empty() && a.read("f").unwrap().lines().count() == 5
}
