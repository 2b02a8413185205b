//! Every row of the merge contract's table, and the histories that its model names, as two or three devices at a shell.

#![allow(clippy::unwrap_used)]

use crdtfs_core::op::RenameMode;
use crdtfs_testkit::{Device, copies, meet, two};

const LINES: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";

#[test]
fn create_create_same_bytes_is_one_file() {
    let (mut a, mut b) = two(|_| {});
    a.write("f", "x").unwrap();
    b.write("f", "x").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert!(a.ls("").is_empty(), "a deletion of the one file deletes all that it is");
}

#[test]
fn create_create_other_bytes_keeps_both() {
    let (mut a, mut b) = two(|_| {});
    a.write("f.txt", "x").unwrap();
    b.write("f.txt", "y").unwrap();
    meet(&mut [&mut a, &mut b]);
    let copies = copies(&a, "");
    assert_eq!(copies.len(), 1);
    assert!(copies[0].starts_with("f (conflict ") && copies[0].ends_with(").txt"), "{copies:?}");
    let mut texts = [a.read("f.txt").unwrap(), a.read(&copies[0]).unwrap()];
    texts.sort();
    assert_eq!(texts, ["x", "y"]);
}

#[test]
fn create_file_and_directory_the_directory_keeps_the_name() {
    let (mut a, mut b) = two(|_| {});
    a.write("n", "x").unwrap();
    b.mkdir("n").unwrap();
    b.write("n/in", "y").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.read("n/in").unwrap(), "y");
    assert_eq!(a.read(&copies(&a, "")[0]).unwrap(), "x");
}

#[test]
fn mkdir_mkdir_is_one_directory_and_operations_act_on_all_of_it() {
    let (mut a, mut b) = two(|_| {});
    for (device, file) in [(&mut a, "fa"), (&mut b, "fb")] {
        device.mkdir("d").unwrap();
        device.mkdir("d/e").unwrap();
        device.write(&format!("d/e/{file}"), file).unwrap();
    }
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["d"]);
    assert_eq!(a.ls("d"), ["e"]);
    assert_eq!(a.ls("d/e"), ["fa", "fb"]);
    a.mv("d/e", "e2").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.ls("e2"), ["fa", "fb"]);
    b.mv("d", "d2").unwrap();
    a.rm_r("e2").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["d2"]);
}

#[test]
fn what_stands_in_one_of_two_united_directories_stays_in_it() {
    let (mut a, mut b) = two(|_| {});
    for device in [&mut a, &mut b] {
        device.mkdir("d").unwrap();
        let text = format!("of {}", device.name);
        device.write("d/f", text).unwrap();
    }
    let (mut c, mut d) = two(|_| {});
    c.sync_from(&a);
    c.sync_from(&b);
    // The name is freed, and the other keeps the one that it was shown under.
    let copy = copies(&c, "d")[0].clone();
    let text = c.read(&format!("d/{copy}")).unwrap();
    c.mv("d/f", "f").unwrap();
    assert_eq!(c.read(&format!("d/{copy}")).unwrap(), text);
    // Each of the directories goes its way: what is left in them goes with the one that it was made in.
    a.mv("d", "da").unwrap();
    b.mv("d", "db").unwrap();
    meet(&mut [&mut a, &mut b, &mut c, &mut d]);
    let (here, there) = if text == "of ann" { ("da", "db") } else { ("db", "da") };
    assert_eq!(d.ls(here), [copy]);
    assert!(d.ls(there).is_empty());
}

#[test]
fn two_directories_moved_to_one_name_are_both_there() {
    let (mut a, mut b) = two(|a| {
        for dir in ["x", "y"] {
            a.mkdir(dir).unwrap();
            a.write(&format!("{dir}/f{dir}"), dir).unwrap();
        }
    });
    a.mv("x", "z").unwrap();
    b.mv("y", "z").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls("").len(), 2);
    assert_eq!(copies(&a, "").len(), 1);
}

#[test]
fn a_directory_moved_to_a_name_is_not_united_with_one_made_there() {
    for seed in 0..4 {
        let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
        a.mkdir("d").unwrap();
        a.write("d/fa", "ann").unwrap();
        b.mkdir("e").unwrap();
        b.write("e/fb", "bob").unwrap();
        b.mv("e", "d").unwrap();
        meet(&mut [&mut a, &mut b]);
        let copy = copies(&a, "")[0].clone();
        assert_eq!(a.ls(""), ["d", copy.as_str()]);
        let mut inside = [a.ls("d"), a.ls(&copy)];
        inside.sort();
        assert_eq!(inside, [["fa"], ["fb"]]);
        // Nor are two that were one, once one of them was moved away and back.
        let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
        for device in [&mut a, &mut b] {
            device.mkdir("d").unwrap();
            let file = format!("d/{}", device.name);
            device.write(&file, "in").unwrap();
        }
        b.mv("d", "e").unwrap();
        b.mv("e", "d").unwrap();
        meet(&mut [&mut a, &mut b]);
        assert_eq!((a.ls("").len(), copies(&a, "").len()), (2, 1));
    }
}

/// Where an entry is written down as it would be disturbed, that is no choice of a user's.
#[test]
fn a_users_choice_of_a_place_beats_an_automatic_one() {
    let holder_leaves: [fn(&mut Device); 3] =
        [|a| _ = a.mv("f", "g").unwrap(), |a| _ = a.unlink("f").unwrap(), |a| _ = a.mv("f", "d/f").unwrap()];
    for leave in holder_leaves {
        for seed in 0..4 {
            let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
            a.mkdir("d").unwrap();
            b.sync_from(&a);
            a.write("f", b"\0one").unwrap();
            b.write("f", b"\0two").unwrap();
            meet(&mut [&mut a, &mut b]);
            let copy = copies(&a, "")[0].clone();
            let text = a.read(&copy).unwrap();
            // The holder leaves, and the copy is written down under the name that it has; meanwhile somebody renames it.
            leave(&mut a);
            assert!(a.find(&copy).is_some());
            b.mv(&copy, "d/chosen").unwrap();
            meet(&mut [&mut a, &mut b]);
            assert_eq!(a.read("d/chosen").unwrap(), text);
            assert!(a.find(&copy).is_none());
        }
    }
}

#[test]
fn edit_edit_of_other_lines_is_one_text() {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    a.write("f", LINES.replace("2\n", "two\n")).unwrap();
    b.write("f", LINES.replace("8\n", "eight\n")).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
    assert_eq!(a.read("f").unwrap(), LINES.replace("2\n", "two\n").replace("8\n", "eight\n"));
    // An edit of the merged text settles both.
    a.write("f", "new\n").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.read("f").unwrap(), "new\n");
    assert_eq!(b.find("f").unwrap().basis.len(), 1);
}

#[test]
fn edit_edit_of_the_same_line_keeps_both() {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    a.write("f", LINES.replace("2\n", "two\n")).unwrap();
    b.write("f", LINES.replace("2\n", "zwei\n")).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(copies(&a, "").len(), 1);
    assert!(!a.read("f").unwrap().contains("<<<"));
}

#[test]
fn edit_edit_of_a_binary_keeps_both() {
    let (mut a, mut b) = two(|a| _ = a.write("f", b"\0base"));
    a.write("f", b"\0one").unwrap();
    b.write("f", b"\0two").unwrap();
    meet(&mut [&mut a, &mut b]);
    let name = copies(&a, "")[0].clone();
    let mut texts = [a.read("f").unwrap(), a.read(&name).unwrap()];
    texts.sort();
    assert_eq!(texts, ["\0one", "\0two"]);
    // Deleting the copy settles the conflict; the name's holder stays.
    b.unlink(&name).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
}

#[test]
fn append_append_has_both_tails() {
    let (mut a, mut b) = two(|a| _ = a.write("log", "base\n"));
    a.write("log", "base\na\n").unwrap();
    b.write("log", "base\nb\n").unwrap();
    meet(&mut [&mut a, &mut b]);
    let text = a.read("log").unwrap();
    assert!(text == "base\na\nb\n" || text == "base\nb\na\n", "{text}");
}

#[test]
fn append_append_to_an_empty_file_has_both_tails() {
    let (mut a, mut b) = two(|a| _ = a.write("log", ""));
    a.write("log", "a\n").unwrap();
    b.write("log", "b\n").unwrap();
    meet(&mut [&mut a, &mut b]);
    let text = a.read("log").unwrap();
    assert!(text == "a\nb\n" || text == "b\na\n", "{text}");
}

#[test]
fn append_append_to_a_binary_keeps_both() {
    let (mut a, mut b) = two(|a| _ = a.write("f", b"\0"));
    a.write("f", b"\0a").unwrap();
    b.write("f", b"\0b").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls("").len(), 2);
}

#[test]
fn append_and_truncate_keeps_both() {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    a.write("f", format!("{LINES}more\n")).unwrap();
    b.write("f", "").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls("").len(), 2);
}

#[test]
fn edit_edit_to_the_same_bytes_is_that_file() {
    let (mut a, mut b) = two(|a| _ = a.write("f", b"\0base"));
    a.write("f", b"\0same").unwrap();
    b.now_ms += 100_000;
    b.write("f", b"\0same").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
    assert_eq!(a.read("f").unwrap(), "\0same");
}

#[test]
fn edit_then_chmod_and_delete_the_edited_file_survives() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "base"));
    a.write("f", "edited").unwrap();
    a.chmod("f", 0o600).unwrap();
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.read("f").unwrap(), "edited");
    assert_eq!(b.find("f").unwrap().mode, 0o600);
}

#[test]
fn unlink_of_one_link_and_edit_shows_at_the_other() {
    let (mut a, mut b) = two(|a| {
        a.write("f", "base").unwrap();
        a.link("f", "g").unwrap();
    });
    assert_eq!(b.find("f").unwrap().nlink, 2);
    a.write("f", "edited").unwrap();
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["g"]);
    assert_eq!(a.read("g").unwrap(), "edited");
    assert_eq!(a.find("g").unwrap().nlink, 1);
}

#[test]
fn unlink_of_all_links_and_edit_brings_back_the_one_written_through() {
    let (mut a, mut b) = two(|a| {
        a.write("f", "base").unwrap();
        a.link("f", "g").unwrap();
    });
    a.write("g", "edited").unwrap();
    b.unlink("f").unwrap();
    b.unlink("g").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["g"]);
}

#[test]
fn edit_and_delete_the_edited_file_survives() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "base"));
    a.write("f", "edited").unwrap();
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.read("f").unwrap(), "edited");
    // And can be deleted, once it is seen.
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert!(a.ls("").is_empty());
}

#[test]
fn delete_delete_is_gone() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "base"));
    a.unlink("f").unwrap();
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert!(a.ls("").is_empty());
}

#[test]
fn unlink_of_each_link_is_gone() {
    let (mut a, mut b) = two(|a| {
        a.write("f", "base").unwrap();
        a.link("f", "g").unwrap();
    });
    a.unlink("f").unwrap();
    b.unlink("g").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert!(a.ls("").is_empty());
}

#[test]
fn an_edit_that_one_unlinked_lives_at_the_link_that_another_unlinked_unseen() {
    let (mut a, mut b) = two(|a| {
        a.write("f", "base").unwrap();
        a.link("f", "g").unwrap();
    });
    a.write("f", "edited").unwrap();
    a.unlink("f").unwrap();
    assert_eq!(a.read("g").unwrap(), "edited");
    b.unlink("g").unwrap();
    assert_eq!(b.ls(""), ["f"]);
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["g"], "where who edited it left it");
    assert_eq!(a.read("g").unwrap(), "edited");
    b.unlink("g").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert!(a.ls("").is_empty(), "now that it is seen");
}

#[test]
fn unlink_of_each_link_is_gone_whatever_links_were_removed_before() {
    let (mut a, mut b) = two(|a| {
        a.write("f", "base").unwrap();
        a.link("f", "g").unwrap();
        a.link("f", "h").unwrap();
        a.unlink("h").unwrap();
        a.write("f", "edited").unwrap();
    });
    a.unlink("f").unwrap();
    b.unlink("g").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert!(a.ls("").is_empty());
}

#[test]
fn a_file_removed_by_its_last_link_is_gone_whatever_was_unlinked_before() {
    let (mut a, mut b) = two(|a| {
        a.write("f", "base").unwrap();
        a.link("f", "g").unwrap();
    });
    a.unlink("f").unwrap();
    a.write("g", "edited").unwrap();
    a.unlink("g").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert!(b.ls("").is_empty());
}

#[test]
fn chmod_and_delete_is_gone() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "base"));
    a.chmod("f", 0o600).unwrap();
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert!(a.ls("").is_empty());
}

#[test]
fn chmod_and_edit_then_delete_is_gone() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "base"));
    a.chmod("f", 0o600).unwrap();
    b.write("f", "edited").unwrap();
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert!(a.ls("").is_empty());
}

#[test]
fn chmod_and_edit_both_apply() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "base"));
    a.chmod("f", 0o600).unwrap();
    b.write("f", "edited").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
    assert_eq!((a.read("f").unwrap().as_str(), a.find("f").unwrap().mode), ("edited", 0o600));
}

#[test]
fn rename_and_edit_both_apply() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "base"));
    a.mv("f", "g").unwrap();
    b.write("f", "edited").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["g"]);
    assert_eq!(a.read("g").unwrap(), "edited");
}

#[test]
fn rename_and_delete_survives_renamed() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "base"));
    a.mv("f", "g").unwrap();
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["g"]);
}

#[test]
fn rename_rename_is_one_file() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "base"));
    a.mv("f", "g").unwrap();
    b.mv("f", "h").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls("").len(), 1);
    assert!(a.ls("")[0] == "g" || a.ls("")[0] == "h");
}

#[test]
fn rename_in_the_directory_and_move_both_apply() {
    let (mut a, mut b) = two(|a| {
        a.write("f", "base").unwrap();
        a.mkdir("d").unwrap();
    });
    a.mv("f", "g").unwrap();
    b.mv("f", "d/f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["d"]);
    assert_eq!(a.ls("d"), ["g"]);
}

#[test]
fn move_move_is_one_place() {
    let (mut a, mut b) = two(|a| {
        a.write("f", "base").unwrap();
        a.mkdir("d").unwrap();
        a.mkdir("e").unwrap();
    });
    a.mv("f", "d/f").unwrap();
    b.mv("f", "e/f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls("d").len() + a.ls("e").len(), 1);
}

#[test]
fn two_entries_to_one_name_are_both_there() {
    let (mut a, mut b) = two(|a| {
        a.write("f", "one").unwrap();
        a.write("g", "two").unwrap();
    });
    a.mv("f", "h").unwrap();
    b.mv("g", "h").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls("").len(), 2);
    assert_eq!(copies(&a, "").len(), 1);
}

#[test]
fn moves_that_would_make_a_cycle_leave_everything_reachable() {
    let (mut a, mut b) = two(|a| {
        for dir in ["x", "y"] {
            a.mkdir(dir).unwrap();
            a.write(&format!("{dir}/f{dir}"), dir).unwrap();
        }
    });
    a.mv("x", "y/x").unwrap();
    b.mv("y", "x/y").unwrap();
    meet(&mut [&mut a, &mut b]);
    let files: Vec<_> = a.walk().into_iter().map(|(path, _)| path).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    assert!(files.iter().any(|path| path.ends_with("x/fx")) && files.iter().any(|path| path.ends_with("y/fy")));
}

#[test]
fn a_cycle_is_broken_at_a_directory_that_somebody_moved() {
    let (mut a, mut b) = two(|a| {
        for dir in ["x", "x/w", "y", "y/z"] {
            a.mkdir(dir).unwrap();
        }
    });
    a.mv("x", "y/z/x").unwrap();
    b.mv("y", "x/w/y").unwrap();
    meet(&mut [&mut a, &mut b]);
    let paths: Vec<_> = a.walk().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths.len(), 4, "{paths:?}");
    assert!(paths.iter().any(|path| path.ends_with("x/w")), "{paths:?}");
    assert!(paths.iter().any(|path| path.ends_with("y/z")), "{paths:?}");
}

#[test]
fn a_displaced_directory_goes_where_the_user_moves_it() {
    let (mut a, mut b) = two(|a| {
        for dir in ["x", "y", "z"] {
            a.mkdir(dir).unwrap();
        }
    });
    a.mv("x", "y/x").unwrap();
    b.mv("y", "x/y").unwrap();
    meet(&mut [&mut a, &mut b]);
    let top = a.ls("").into_iter().find(|name| name != "z").unwrap();
    a.mv(&top, &format!("z/{top}")).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.ls(""), ["z"]);
    assert_eq!(b.ls("z"), [top.as_str()]);
    let below = if top == "x" { "y" } else { "x" };
    a.mv(&format!("z/{top}/{below}"), below).unwrap();
    a.mv(&format!("z/{top}"), &format!("{below}/{top}")).unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.ls(below), [top.as_str()]);
}

#[test]
fn a_move_into_a_deleted_directory_survives_with_what_is_above() {
    let (mut a, mut b) = two(|a| {
        a.mkdir("d").unwrap();
        a.mkdir("d/e").unwrap();
        a.write("f", "f").unwrap();
        a.write("d/other", "o").unwrap();
    });
    a.mv("f", "d/e/f").unwrap();
    b.rm_r("d").unwrap();
    meet(&mut [&mut a, &mut b]);
    let paths: Vec<_> = a.walk().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["d", "d/e", "d/e/f"]);
    a.unlink("d/e/f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.ls("d"), ["e"], "what it was removed from lives on");
}

#[test]
fn rm_r_and_edit_inside_the_file_survives() {
    let (mut a, mut b) = two(|a| {
        a.mkdir("d").unwrap();
        a.write("d/f", "f").unwrap();
        a.write("d/g", "g").unwrap();
    });
    a.write("d/f", "edited").unwrap();
    b.rm_r("d").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls("d"), ["f"]);
    assert_eq!(a.read("d/f").unwrap(), "edited");
}

#[test]
fn rm_r_and_move_of_a_child_out_the_child_survives() {
    let (mut a, mut b) = two(|a| {
        a.mkdir("d").unwrap();
        a.write("d/f", "f").unwrap();
        a.write("d/g", "g").unwrap();
    });
    a.mv("d/f", "f").unwrap();
    b.rm_r("d").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f"]);
}

#[test]
fn rm_r_and_rename_of_the_directory_keeps_the_directory() {
    let (mut a, mut b) = two(|a| {
        a.mkdir("d").unwrap();
        a.write("d/f", "f").unwrap();
    });
    a.mv("d", "e").unwrap();
    b.rm_r("d").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["e"]);
    assert!(a.ls("e").is_empty());
}

#[test]
fn swap_by_renames_and_edit_the_edit_follows_the_entry() {
    let (mut a, mut b) = two(|a| {
        a.write("x", "x").unwrap();
        a.write("y", "y").unwrap();
    });
    a.mv("x", "t").unwrap();
    a.mv("y", "x").unwrap();
    a.mv("t", "y").unwrap();
    b.write("x", "edited").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["x", "y"]);
    assert_eq!((a.read("x").unwrap().as_str(), a.read("y").unwrap().as_str()), ("y", "edited"));
}

#[test]
fn exchange_and_edit_the_edit_follows_the_entry() {
    let (mut a, mut b) = two(|a| {
        a.write("x", "x").unwrap();
        a.write("y", "y").unwrap();
    });
    a.rename("x", "y", RenameMode::Exchange).unwrap();
    b.write("x", "edited").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!((a.read("x").unwrap().as_str(), a.read("y").unwrap().as_str()), ("y", "edited"));
}

#[test]
fn a_file_that_came_back_of_two_edits_has_both_where_it_is_moved() {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    let mut c = Device::new("cat", 3);
    c.sync_from(&a);
    a.write("f", LINES.replace("2\n", "two\n")).unwrap();
    c.write("f", LINES.replace("8\n", "eight\n")).unwrap();
    // What the deletion had seen is no part of what comes back.
    b.write("f", LINES.replace("5\n", "five\n")).unwrap();
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b, &mut c]);
    let both = LINES.replace("2\n", "two\n").replace("8\n", "eight\n");
    assert_eq!(b.read("f").unwrap(), both);
    b.mv("f", "g").unwrap();
    meet(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(a.read("g").unwrap(), both);
}

#[test]
fn an_edit_that_was_begun_before_settles_nothing_that_a_chmod_had_seen() {
    for seed in 0..8 {
        let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
        a.write("f", b"\0base").unwrap();
        b.sync_from(&a);
        a.write("f", b"\0one").unwrap();
        b.write("f", b"\0two").unwrap();
        let opened = a.find("f").unwrap();
        meet(&mut [&mut a, &mut b]);
        // Of the two it is the winner that is chmodded, with the other before the author's eyes.
        b.chmod("f", 0o600).unwrap();
        meet(&mut [&mut a, &mut b]);
        a.close_write(opened.inode, b"\0three", opened.basis).unwrap();
        meet(&mut [&mut a, &mut b]);
        let texts: Vec<_> = b.walk().into_iter().filter_map(|(path, _)| b.read(&path)).collect();
        assert!(texts.contains(&"\0two".to_string()), "{texts:?}");
        assert!(texts.contains(&"\0three".to_string()), "{texts:?}");
    }
}

#[test]
fn replaced_by_a_symlink_and_edit_both_are_there() {
    let (mut a, mut b) = two(|a| _ = a.write("f", "base"));
    a.unlink("f").unwrap();
    a.symlink("elsewhere", "f").unwrap();
    b.write("f", "edited").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.find("f").unwrap().kind, crdtfs_core::node::Kind::Symlink);
    assert_eq!(a.read(&copies(&a, "")[0]).unwrap(), "edited");
}

#[test]
fn names_are_exact() {
    let (mut a, mut b) = two(|_| {});
    a.write("name", "1").unwrap();
    b.write("Name", "2").unwrap();
    b.write("con", "3").unwrap();
    a.write("é", "nfc").unwrap();
    b.write("e\u{301}", "nfd").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls("").len(), 5);
    assert!(copies(&a, "").is_empty());
}

#[test]
fn edit_and_edit_then_delete_only_the_unseen_edit_returns() {
    let (mut a, mut b) = two(|a| _ = a.write("f", b"\0base"));
    a.write("f", b"\0a").unwrap();
    b.write("f", b"\0b").unwrap();
    b.unlink("f").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.ls(""), ["f"]);
    assert_eq!(b.read("f").unwrap(), "\0a");
}

#[test]
fn edit_and_move_into_a_directory_that_is_then_removed_comes_back_in_it() {
    let (mut a, mut b) = two(|a| {
        a.mkdir("n").unwrap();
        a.write("f", "base").unwrap();
    });
    a.write("f", "edited").unwrap();
    b.mv("f", "n/f").unwrap();
    b.rm_r("n").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.read("n/f").unwrap(), "edited");
}

#[test]
fn a_removed_directory_made_again_is_one() {
    let (mut a, mut b) = two(|a| {
        a.mkdir("d").unwrap();
        a.write("d/old", "old").unwrap();
    });
    a.rm_r("d").unwrap();
    a.mkdir("d").unwrap();
    b.write("d/new", "new").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["d"]);
    assert_eq!(a.ls("d"), ["new"]);
    a.write("d/more", "more").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(b.ls("d"), ["more", "new"]);
}

/// One of the directories that are shown as one was removed and is there only for the sake of what stands in it: it stays the
/// directory that it is, with all that is in it, when that goes.
#[test]
fn the_last_that_stood_in_a_removed_directory_takes_nothing_along() {
    let acts: [fn(&mut Device); 5] = [
        |a| _ = a.unlink("n/d/x").unwrap(),
        |a| _ = a.write("n/d/x", "edited").unwrap(),
        |a| _ = a.mv("n/d/y", "n/d/x").unwrap(),
        |a| _ = a.mv("n/d/x", "n/d/y").unwrap(),
        |a| _ = a.mv("n/d/x", "x").unwrap(),
    ];
    // Which of the directories it is that all are shown as goes by their ids.
    let cases = (0..32).flat_map(|seed| acts.map(|act| (seed, act)));
    for (seed, act, twin) in cases.flat_map(|(seed, act)| [(seed, act, false), (seed, act, true)]) {
        let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
        let make = |device: &mut Device| {
            device.mkdir("n").unwrap();
            device.mkdir("n/d").unwrap();
        };
        make(&mut a);
        b.sync_from(&a);
        a.rm_r("n").unwrap();
        make(&mut a);
        a.write("n/d/y", "y").unwrap();
        a.write("n/z", "z").unwrap();
        b.write("n/d/x", "x").unwrap();
        if twin {
            a.write("n/d/x", "x").unwrap();
        }
        meet(&mut [&mut a, &mut b]);
        let shown = |device: &Device| ["n", "n/d", "n/z"].map(|path| device.find(path).unwrap().inode);
        let (before, records) = (shown(&a), a.log.len());
        act(&mut a);
        assert_eq!(shown(&a), before, "seed {seed}");
        assert!(a.log.len() - records <= 4, "seed {seed}: {} records", a.log.len() - records);
        meet(&mut [&mut a, &mut b]);
        assert_eq!(shown(&b), before, "seed {seed}");
        assert!(copies(&a, "").is_empty() && copies(&a, "n").is_empty() && copies(&a, "n/d").is_empty());
    }
}

#[test]
fn chmod_of_an_old_version_and_a_newer_edit_then_promotion() {
    let (mut a, mut b) = two(|a| _ = a.write("f", b"\0base"));
    let mut c = Device::new("cat", 3);
    c.sync_from(&a);
    a.chmod("f", 0o600).unwrap();
    b.write("f", b"\0b").unwrap();
    c.write("f", b"\0c").unwrap();
    meet(&mut [&mut b, &mut c]);
    b.write("f", b"\0again").unwrap();
    meet(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(a.ls("").len(), 2);
    assert_eq!(a.read("f").unwrap(), "\0again");
    assert_eq!(a.find("f").unwrap().mode, 0o600);
}

#[test]
fn twins_with_a_link_on_one_side_and_a_rename_on_the_other() {
    let (mut a, mut b) = two(|_| {});
    a.write("f", "x").unwrap();
    b.write("f", "x").unwrap();
    a.link("f", "g").unwrap();
    b.mv("f", "h").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["f", "g", "h"]);
    let (mut a, mut b) = two(|_| {});
    a.write("f", "x").unwrap();
    b.write("f", "x").unwrap();
    meet(&mut [&mut a, &mut b]);
    a.link("f", "g").unwrap();
    b.mv("f", "h").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.ls(""), ["g", "h"]);
    assert_eq!(a.find("g").unwrap().nlink, 2);
}

#[test]
fn a_merge_waits_for_the_bytes_that_it_needs() {
    let (mut a, mut b) = two(|a| _ = a.write("f", LINES));
    a.write("f", LINES.replace("2\n", "two\n")).unwrap();
    b.write("f", LINES.replace("8\n", "eight\n")).unwrap();
    let mut c = Device::new("cat", 3);
    let mut log = a.log.clone();
    log.extend(b.log.iter().filter(|record| !a.log.contains(record)).cloned());
    c.receive(&log);
    assert_eq!(c.view.wanted().len(), 3);
    assert_eq!(c.find("f").unwrap().shown, crdtfs_core::node::Shown::Pending);
    assert_eq!(c.ls("").len(), 2);
    meet(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(c.ls(""), ["f"]);
}
