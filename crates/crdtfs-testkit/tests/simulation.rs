//! Some thousand worlds; more by `cargo xtask sim`.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stdout, reason = "the seeds of a run that differs each time")]

use crdtfs_testkit::{SimConfig, simulate};

/// Runs that many histories of one kind; panics with the failures, each as a test that can be pasted.
fn run(from: u64, seeds: u64, devices: usize, operations: usize) {
    let config = SimConfig { devices, operations, thorough: false };
    let failures: Vec<_> = (from..from + seeds).filter_map(|seed| simulate(seed, &config).err()).take(3).collect();
    let text: String = failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{text}");
}

#[test]
fn histories_of_two_or_three_devices() {
    run(0, 4000, 3, 20);
}

#[test]
fn histories_of_up_to_six_devices() {
    run(10_000_000, 3000, 6, 20);
}

#[test]
fn long_histories() {
    run(20_000_000, 500, 4, 60);
}

/// A file saved by moving the old one aside, whose new text is a merge: both of its sides stay.
#[test]
fn a_merge_is_not_saved_as_one_of_its_sides() {
    run(491_527, 1, 3, 20);
}

/// Of three versions of a text whose base is not here one is removed, whose author had seen another.
#[test]
fn a_version_that_another_outranks_does_not_rise_when_that_goes() {
    run(153_011_409, 1, 6, 150);
}

/// Other seeds each time; what is printed repeats a failure (`cargo xtask sim --from`).
#[test]
fn histories_that_nobody_ran_before() {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    let from = 1_000_000_000 + since.as_millis() as u64 * 1000;
    println!("seeds from {from}");
    run(from, 3000, 4, 20);
}

#[test]
fn every_step_can_be_had_from_scratch() {
    let config = SimConfig { devices: 3, operations: 16, thorough: true };
    for seed in 1_000_000..1_000_200 {
        if let Err(failure) = simulate(seed, &config) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_has_one_digest() {
    for seed in 0..50 {
        let config = SimConfig::default();
        assert_eq!(simulate(seed, &config).unwrap(), simulate(seed, &config).unwrap());
    }
}

/// Histories that once failed.
mod regressions {
    use crdtfs_testkit::{Action::*, Step, replay};

    #[test]
    fn a_link_to_a_file_that_came_back_leaves_its_copies() {
        let steps = [
            Step { device: 0, action: Create, picks: [2121264634, 56666477, 2593354094] },
            Step { device: 2, action: Sync, picks: [1121942191, 621770696, 394107016] },
            Step { device: 1, action: Sync, picks: [3220083684, 591913564, 2186397056] },
            Step { device: 0, action: Rewrite, picks: [3594191534, 3824493574, 201426780] },
            Step { device: 2, action: Binary, picks: [4225273803, 27712555, 3368970349] },
            Step { device: 1, action: Unlink, picks: [1192753770, 4131445877, 1417715940] },
            Step { device: 2, action: Sync, picks: [3546627844, 3726108586, 2868189876] },
            Step { device: 2, action: Sync, picks: [1722698900, 2090943889, 2793815804] },
            Step { device: 2, action: Link, picks: [1917705627, 432316899, 3177938585] },
            Step { device: 3, action: Sync, picks: [0, 0, 0] },
        ];
        replay(26555, &steps, true).unwrap();
    }

    #[test]
    fn an_entry_that_is_suffixed_again_under_another_name_is_shown() {
        let steps = [
            Step { device: 2, action: Symlink, picks: [2641630159, 839203175, 2357269050] },
            Step { device: 2, action: Create, picks: [2511034746, 583251424, 1439724744] },
            Step { device: 0, action: Create, picks: [1757751021, 1570610616, 3527129526] },
            Step { device: 2, action: Sync, picks: [3956733196, 1492978620, 283935380] },
            Step { device: 0, action: RenameInPlace, picks: [232881967, 3948923958, 3030251661] },
            Step { device: 2, action: Create, picks: [1007174129, 292801473, 92706081] },
        ];
        replay(89, &steps, true).unwrap();
    }

    #[test]
    fn a_chmod_does_not_undo_a_merge() {
        let steps = [
            Step { device: 0, action: Create, picks: [1649750433, 2209334505, 2946383834] },
            Step { device: 1, action: Sync, picks: [1128912551, 3373903524, 549944957] },
            Step { device: 1, action: SaveAside, picks: [4165736166, 1213553777, 3479139933] },
            Step { device: 1, action: Chmod, picks: [1620998681, 3101291212, 3146888041] },
            Step { device: 0, action: SaveByRename, picks: [3038117578, 3130529555, 1425853018] },
            Step { device: 0, action: Rewrite, picks: [3815347969, 780867859, 547353171] },
            Step { device: 1, action: Create, picks: [436587656, 3722439027, 3365470713] },
            Step { device: 1, action: Unlink, picks: [3936385248, 1625581147, 2928376764] },
            Step { device: 0, action: Sync, picks: [2135222873, 3095380222, 1182682150] },
            Step { device: 0, action: Chmod, picks: [2374203344, 1621148075, 3927708205] },
        ];
        replay(6564, &steps, true).unwrap();
    }

    #[test]
    fn an_edit_of_a_copy_opened_earlier_settles_only_its_own() {
        let steps = [
            Step { device: 0, action: Create, picks: [2872743285, 1696249965, 621947376] },
            Step { device: 1, action: Sync, picks: [3487890695, 133863910, 726854177] },
            Step { device: 0, action: SaveAside, picks: [3068781178, 258152873, 3363263888] },
            Step { device: 2, action: Create, picks: [4210801075, 2797134286, 952112362] },
            Step { device: 0, action: Chmod, picks: [3829019761, 2746446407, 2486789359] },
            Step { device: 1, action: Rewrite, picks: [2866803553, 3882342529, 478400006] },
            Step { device: 1, action: Sync, picks: [3894480377, 1532328902, 4033428493] },
            Step { device: 2, action: Sync, picks: [3505408383, 1191852239, 3244235508] },
            Step { device: 1, action: RemoveTree, picks: [2716384328, 565996369, 1606419560] },
            Step { device: 1, action: Rewrite, picks: [2097054008, 2195892425, 650067264] },
            Step { device: 2, action: Open, picks: [3533985352, 1805595484, 465280372] },
            Step { device: 2, action: Sync, picks: [381128903, 3521519600, 3608017300] },
            Step { device: 2, action: Close, picks: [4265676891, 1593434228, 3990055767] },
        ];
        replay(129024, &steps, true).unwrap();
    }

    #[test]
    fn a_save_over_a_suffixed_file_leaves_the_copies_of_both() {
        let steps = [
            Step { device: 0, action: CreateSame, picks: [2737647571, 1458105189, 702058817] },
            Step { device: 0, action: Open, picks: [2019947266, 2148431712, 1845839422] },
            Step { device: 1, action: Create, picks: [651372731, 4290393355, 1379549941] },
            Step { device: 0, action: Rewrite, picks: [868118953, 3093159873, 2673306644] },
            Step { device: 0, action: Close, picks: [4266026993, 3270915649, 3269186638] },
            Step { device: 0, action: Sync, picks: [108958932, 2538970321, 1074320306] },
            Step { device: 0, action: CreateSame, picks: [2692986605, 1557404547, 3066279446] },
            Step { device: 0, action: MoveOver, picks: [3197918228, 57990498, 3835940641] },
        ];
        replay(180669, &steps, true).unwrap();
    }

    #[test]
    fn another_name_of_a_file_moved_aside_is_no_backup() {
        let steps = [
            Step { device: 2, action: Mkdir, picks: [380941632, 1296528171, 942537950] },
            Step { device: 1, action: Sync, picks: [1177965222, 1136746153, 4692877] },
            Step { device: 0, action: Mkdir, picks: [2132640469, 3273683331, 1027153824] },
            Step { device: 1, action: Create, picks: [4071315023, 3907099929, 2736617584] },
            Step { device: 1, action: Sync, picks: [2282196135, 797474480, 940329064] },
            Step { device: 0, action: Create, picks: [3944031030, 4087085647, 731768546] },
            Step { device: 0, action: RemoveTree, picks: [1944208504, 1904303688, 3152368899] },
            Step { device: 1, action: Link, picks: [496980551, 1614165154, 725134309] },
            Step { device: 1, action: Sync, picks: [1917515343, 2235377748, 3567674494] },
            Step { device: 1, action: SaveAside, picks: [2767152877, 857394086, 1720668766] },
            Step { device: 1, action: Unlink, picks: [2562228060, 4053312937, 1107378489] },
        ];
        replay(348460, &steps, true).unwrap();
    }

    #[test]
    fn a_file_that_came_back_is_moved_aside() {
        let steps = [
            Step { device: 3, action: Create, picks: [0, 0, 0] },
            Step { device: 0, action: Sync, picks: [935730461, 1, 0] },
            Step { device: 3, action: Binary, picks: [0, 0, 0] },
            Step { device: 2, action: Sync, picks: [3863494219, 0, 1] },
            Step { device: 0, action: Append, picks: [0, 0, 0] },
            Step { device: 3, action: Unlink, picks: [0, 0, 0] },
            Step { device: 2, action: SaveByRename, picks: [0, 0, 0] },
            Step { device: 0, action: Sync, picks: [1434625292, 1, 0] },
            Step { device: 0, action: Sync, picks: [1989027409, 0, 1] },
            Step { device: 0, action: SaveAside, picks: [0, 0, 0] },
        ];
        replay(300310, &steps, true).unwrap();
    }

    #[test]
    fn a_chmod_beside_a_conflict_moves_nothing() {
        let steps = [
            Step { device: 1, action: Create, picks: [0, 0, 0] },
            Step { device: 3, action: Deliver, picks: [0, 0, 0] },
            Step { device: 3, action: RenameInPlace, picks: [0, 0, 1] },
            Step { device: 1, action: Deliver, picks: [0, 0, 0] },
            Step { device: 1, action: SaveByRename, picks: [0, 0, 0] },
            Step { device: 0, action: Deliver, picks: [0, 1, 1] },
            Step { device: 1, action: Mkdir, picks: [0, 0, 0] },
            Step { device: 1, action: SaveByRemoval, picks: [0, 2868986524, 0] },
            Step { device: 0, action: Create, picks: [0, 0, 0] },
            Step { device: 3, action: Clone, picks: [1, 8, 0] },
            Step { device: 1, action: CreateSame, picks: [0, 0, 0] },
            Step { device: 0, action: Binary, picks: [0, 0, 0] },
            Step { device: 1, action: Deliver, picks: [0, 2, 1928291546] },
            Step { device: 0, action: MoveOver, picks: [0, 1, 0] },
            Step { device: 3, action: SaveByRename, picks: [0, 0, 0] },
            Step { device: 1, action: Deliver, picks: [0, 0, 0] },
            Step { device: 1, action: Sync, picks: [3296642869, 1, 0] },
            Step { device: 1, action: Tend, picks: [0, 1, 0] },
        ];
        replay(301428, &steps, true).unwrap();
    }

    #[test]
    fn a_pending_copy_is_told_of_when_its_holder_becomes_one_with_another() {
        let steps = [
            Step { device: 0, action: CreateSame, picks: [0, 0, 0] },
            Step { device: 2, action: Sync, picks: [2661748162, 1, 0] },
            Step { device: 2, action: SaveAside, picks: [0, 1, 0] },
            Step { device: 0, action: Unlink, picks: [0, 0, 0] },
            Step { device: 2, action: Deliver, picks: [0, 1, 1010217182] },
            Step { device: 1, action: Clone, picks: [0, 0, 0] },
            Step { device: 0, action: Rewrite, picks: [0, 0, 0] },
            Step { device: 1, action: Partition, picks: [1, 0, 0] },
            Step { device: 2, action: Mkdir, picks: [0, 0, 0] },
            Step { device: 1, action: Truncate, picks: [0, 0, 0] },
            Step { device: 0, action: Clone, picks: [0, 3563060683, 0] },
            Step { device: 0, action: Binary, picks: [0, 0, 0] },
            Step { device: 0, action: Burst, picks: [0, 1, 0] },
            Step { device: 2, action: Deliver, picks: [0, 1, 1] },
            Step { device: 2, action: SaveAside, picks: [0, 0, 0] },
            Step { device: 2, action: Mend, picks: [0, 0, 0] },
            Step { device: 0, action: SaveBackup, picks: [0, 0, 0] },
            Step { device: 0, action: Sync, picks: [0, 0, 1] },
            Step { device: 2, action: Sync, picks: [3858351580, 0, 1] },
            Step { device: 0, action: Crash, picks: [0, 0, 0] },
            Step { device: 1, action: Binary, picks: [0, 0, 0] },
            Step { device: 2, action: CreateLong, picks: [0, 0, 0] },
            Step { device: 0, action: Rewrite, picks: [0, 0, 0] },
            Step { device: 0, action: Create, picks: [0, 1, 1] },
            Step { device: 2, action: Deliver, picks: [0, 1, 2187852991] },
            Step { device: 0, action: SaveAside, picks: [0, 1, 0] },
            Step { device: 1, action: Sync, picks: [201272385, 0, 3] },
            Step { device: 0, action: RenameInPlace, picks: [0, 0, 15] },
            Step { device: 1, action: Append, picks: [1, 0, 0] },
            Step { device: 2, action: Deliver, picks: [0, 0, 1] },
            Step { device: 2, action: Deliver, picks: [1, 7, 3693148171] },
        ];
        replay(2002503, &steps, true).unwrap();
    }

    #[test]
    fn what_a_deletion_took_does_not_come_back_when_two_files_become_one() {
        let steps = [
            Step { device: 1, action: Create, picks: [0, 0, 1] },
            Step { device: 0, action: Create, picks: [0, 0, 0] },
            Step { device: 1, action: Link, picks: [0, 0, 0] },
            Step { device: 0, action: Link, picks: [0, 0, 1] },
            Step { device: 0, action: Unlink, picks: [0, 0, 0] },
            Step { device: 0, action: Mkdir, picks: [0, 0, 0] },
            Step { device: 0, action: RemoveTree, picks: [1, 0, 0] },
            Step { device: 2, action: Sync, picks: [0, 1, 0] },
            Step { device: 2, action: Sync, picks: [1, 0, 5] },
            Step { device: 2, action: Create, picks: [0, 1, 0] },
            Step { device: 2, action: Create, picks: [0, 1, 1] },
            Step { device: 2, action: MoveOver, picks: [1943627263, 1, 0] },
            Step { device: 1, action: Sync, picks: [188314554, 1, 0] },
            Step { device: 0, action: Sync, picks: [1532499272, 1, 0] },
            Step { device: 0, action: Rewrite, picks: [0, 0, 0] },
            Step { device: 2, action: Create, picks: [0, 0, 7] },
            Step { device: 1, action: SaveAnew, picks: [0, 2680556870, 2407737307] },
            Step { device: 0, action: Sync, picks: [1, 0, 1] },
            Step { device: 0, action: Unlink, picks: [0, 0, 0] },
            Step { device: 0, action: Sync, picks: [0, 0, 3874486983] },
            Step { device: 0, action: Swap, picks: [0, 0, 0] },
        ];
        replay(4002694, &steps, true).unwrap();
    }

    #[test]
    fn the_copy_of_a_file_that_came_back_stays_when_it_becomes_one_with_another() {
        let steps = [
            Step { device: 1, action: Tend, picks: [0, 0, 0] },
            Step { device: 0, action: Create, picks: [0, 0, 6] },
            Step { device: 2, action: Sync, picks: [1355839780, 1, 0] },
            Step { device: 0, action: Unlink, picks: [0, 0, 0] },
            Step { device: 0, action: CreateSame, picks: [0, 1, 2850584006] },
            Step { device: 0, action: Rewrite, picks: [0, 0, 0] },
            Step { device: 2, action: Rewrite, picks: [0, 0, 0] },
            Step { device: 2, action: Sync, picks: [1983534700, 0, 522451163] },
            Step { device: 2, action: RemoveTree, picks: [1, 0, 0] },
        ];
        replay(73349, &steps, true).unwrap();
    }

    #[test]
    fn a_chmod_leaves_a_file_that_came_back_where_it_is() {
        let steps = [
            Step { device: 0, action: Binary, picks: [0, 0, 0] },
            Step { device: 1, action: Open, picks: [0, 0, 0] },
            Step { device: 1, action: CreateLong, picks: [0, 0, 0] },
            Step { device: 1, action: Link, picks: [0, 0, 0] },
            Step { device: 0, action: Sync, picks: [192994303, 1, 0] },
            Step { device: 0, action: RenameInPlace, picks: [1, 0, 1] },
            Step { device: 1, action: Sync, picks: [0, 1, 0] },
            Step { device: 1, action: Binary, picks: [0, 0, 0] },
            Step { device: 1, action: SaveByRemoval, picks: [1, 0, 0] },
            Step { device: 0, action: SaveAside, picks: [0, 0, 0] },
            Step { device: 0, action: Chmod, picks: [1, 0, 1] },
            Step { device: 1, action: Sync, picks: [0, 1, 0] },
            Step { device: 1, action: Tend, picks: [0, 1, 0] },
        ];
        replay(30009972, &steps, true).unwrap();
    }

    #[test]
    fn of_several_directories_of_one_name_those_that_are_one_stay_one() {
        let steps = [
            Step { device: 2, action: LinkInto, picks: [0, 0, 1] },
            Step { device: 2, action: Append, picks: [0, 0, 0] },
            Step { device: 2, action: Mkdir, picks: [0, 1, 0] },
            Step { device: 2, action: Unlink, picks: [0, 1, 0] },
            Step { device: 2, action: Chmod, picks: [0, 0, 1] },
            Step { device: 0, action: Mkdir, picks: [0, 0, 14] },
            Step { device: 1, action: Mkdir, picks: [0, 0, 3598693413] },
            Step { device: 0, action: Mkdir, picks: [0, 1, 0] },
            Step { device: 1, action: Mkdir, picks: [0, 1, 0] },
            Step { device: 0, action: Create, picks: [0, 0, 3] },
            Step { device: 0, action: Link, picks: [0, 0, 0] },
            Step { device: 3, action: Mkdir, picks: [0, 0, 2] },
            Step { device: 2, action: RenameInPlace, picks: [0, 0, 10] },
            Step { device: 3, action: Create, picks: [0, 1, 0] },
            Step { device: 2, action: Sync, picks: [471724432, 0, 1886683314] },
            Step { device: 0, action: Unlink, picks: [1, 0, 0] },
            Step { device: 2, action: Binary, picks: [0, 0, 0] },
            Step { device: 2, action: Sync, picks: [3166678967, 0, 1] },
            Step { device: 2, action: Sync, picks: [0, 0, 5] },
            Step { device: 2, action: RemoveTree, picks: [9, 0, 0] },
            Step { device: 0, action: Create, picks: [0, 1, 1] },
            Step { device: 0, action: Create, picks: [0, 11, 0] },
            Step { device: 0, action: Sync, picks: [4012375267, 0, 2246084373] },
            Step { device: 0, action: Open, picks: [0, 0, 0] },
            Step { device: 2, action: Mkdir, picks: [0, 3, 0] },
            Step { device: 0, action: Create, picks: [0, 0, 15] },
            Step { device: 2, action: SaveAside, picks: [692642093, 0, 0] },
            Step { device: 0, action: SaveByRename, picks: [0, 0, 0] },
            Step { device: 0, action: Close, picks: [0, 0, 0] },
            Step { device: 0, action: Mkdir, picks: [0, 2974306682, 1] },
            Step { device: 2, action: Sync, picks: [1, 1, 0] },
            Step { device: 2, action: RenameInPlace, picks: [818955362, 0, 0] },
        ];
        replay(32000221, &steps, true).unwrap();
    }

    #[test]
    fn what_was_set_on_a_removed_file_does_not_come_back_with_what_was_still_open() {
        let steps = [
            Step { device: 1, action: Create, picks: [0, 0, 7] },
            Step { device: 0, action: Sync, picks: [623446871, 0, 1] },
            Step { device: 1, action: SaveByRename, picks: [0, 0, 0] },
            Step { device: 0, action: Append, picks: [0, 0, 0] },
            Step { device: 0, action: Create, picks: [0, 0, 0] },
            Step { device: 0, action: Truncate, picks: [0, 0, 0] },
            Step { device: 1, action: Open, picks: [0, 0, 0] },
            Step { device: 1, action: Chmod, picks: [0, 1, 0] },
            Step { device: 1, action: Create, picks: [0, 0, 1] },
            Step { device: 1, action: LinkInto, picks: [0, 0, 0] },
            Step { device: 0, action: Burst, picks: [0, 0, 0] },
            Step { device: 1, action: Create, picks: [0, 0, 2] },
            Step { device: 1, action: Unlink, picks: [3, 0, 0] },
            Step { device: 1, action: Sync, picks: [2928138658, 0, 1] },
            Step { device: 1, action: Close, picks: [0, 0, 0] },
        ];
        replay(140204241, &steps, true).unwrap();
    }

    #[test]
    fn a_backup_that_another_device_had_just_cut_to_nothing_may_go() {
        let steps = [
            Step { device: 1, action: Create, picks: [0, 0, 0] },
            Step { device: 2, action: Sync, picks: [1028803765, 0, 1] },
            Step { device: 0, action: Sync, picks: [341681535, 0, 1] },
            Step { device: 0, action: SaveBackup, picks: [0, 0, 0] },
            Step { device: 2, action: SaveAnew, picks: [0, 2920182325, 1111315838] },
            Step { device: 1, action: Unlink, picks: [0, 0, 0] },
            Step { device: 1, action: Sync, picks: [0, 1, 0] },
            Step { device: 0, action: Sync, picks: [0, 0, 5] },
            Step { device: 0, action: SaveByRemoval, picks: [1, 0, 0] },
        ];
        replay(140672514, &steps, true).unwrap();
    }

    #[test]
    fn an_edit_of_what_was_removed_brings_a_directory_back_that_takes_the_name_from_a_file() {
        let steps = [
            Step { device: 1, action: Extract, picks: [0, 0, 0] },
            Step { device: 0, action: Sync, picks: [4080527344, 0, 1] },
            Step { device: 0, action: Open, picks: [1, 0, 0] },
            Step { device: 0, action: RemoveTree, picks: [10, 0, 0] },
            Step { device: 0, action: Create, picks: [0, 1, 7] },
            Step { device: 0, action: Close, picks: [0, 0, 0] },
        ];
        replay(150009522, &steps, true).unwrap();
    }

    #[test]
    fn an_edit_of_what_was_removed_elsewhere_outlives_that() {
        let steps = [
            Step { device: 1, action: Mkdir, picks: [0, 0, 0] },
            Step { device: 1, action: Create, picks: [0, 1, 0] },
            Step { device: 0, action: Deliver, picks: [0, 0, 0] },
            Step { device: 1, action: Open, picks: [0, 0, 0] },
            Step { device: 0, action: Sync, picks: [0, 0, 1] },
            Step { device: 0, action: RemoveTree, picks: [0, 0, 0] },
            Step { device: 1, action: Deliver, picks: [0, 0, 0] },
            Step { device: 1, action: Create, picks: [0, 0, 0] },
            Step { device: 1, action: Close, picks: [0, 0, 0] },
        ];
        replay(150168616, &steps, true).unwrap();
    }
}
