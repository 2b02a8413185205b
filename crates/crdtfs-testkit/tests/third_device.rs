//! Two things at once, and a third device that has seen one side of it, or the first steps of one: it ends as it does
//! without the third, and whoever sees what came of it can remove it for good.

#![allow(clippy::unwrap_used)]

use crdtfs_core::op::RenameMode;
use crdtfs_testkit::{Device, copies, meet};

type Act = fn(&mut Device);

/// A test for each pair: what was there before; what each of two devices does, a step at a time; and what one of them does
/// once it has seen both.
macro_rules! pairs {
    ($($name:ident: $before:expr, $one:expr, $two:expr $(, then $then:expr)?;)*) => {
        $(
            #[test]
            fn $name() {
                let then: &[Act] = &[$($then)?];
                ends_as_without_a_third($before, &$one, &$two, then);
            }
        )*
    };
}

pairs! {
    create_create_same_bytes: nothing, [|a| write(a, "f", "x")], [|b| write(b, "f", "x")];
    create_create_other_bytes: nothing, [|a| write(a, "f", "x")], [|b| write(b, "f", "y")];
    create_create_then_rename_of_the_holder:
        nothing, [|a| write(a, "f", "x")], [|b| write(b, "f", "y")], then |a| mv(a, "f", "g");
    create_create_then_unlink_of_the_holder:
        nothing, [|a| write(a, "f", "x")], [|b| write(b, "f", "y")], then |a| unlink(a, "f");
    create_create_then_a_move_over_the_holder:
        other, [|a| write(a, "f", "x")], [|b| write(b, "f", "y")], then |a| mv(a, "other", "f");
    create_file_and_directory:
        nothing, [|a| write(a, "n", "x")], [|b| mkdir(b, "n"), |b| write(b, "n/in", "y")], then |a| mv(a, "n", "m");
    colliding_names_of_255_bytes:
        nothing,
        [|a| write(a, &long('1'), "x")],
        [|b| write(b, &long('1'), "y")],
        then |a| mv(a, &long('1'), "short");
    two_names_of_255_bytes_and_directories_that_take_them:
        nothing,
        [|a| write(a, &long('1'), "x"), |a| link(a, &long('1'), &long('2'))],
        [|b| mkdir(b, &long('1')), |b| mkdir(b, &long('2'))];
    mkdir_mkdir: nothing, [made_with_file], [made_with_file];
    mkdir_mkdir_then_rename: nothing, [made_with_file], [made_with_file], then |a| mv(a, "d", "e");
    mkdir_mkdir_then_rm_r: nothing, [made_with_file], [made_with_file], then |a| rm_r(a, "d");
    two_directories_to_one_name: two_dirs, [|a| mv(a, "x", "z")], [|b| mv(b, "y", "z")], then |a| mv(a, "z", "w");
    twins_one_linked_one_renamed:
        nothing,
        [|a| write(a, "f", "x"), |a| link(a, "f", "g")],
        [|b| write(b, "f", "x"), |b| mv(b, "f", "h")];
    edit_edit_of_a_binary: binary, [|a| write(a, "f", "\0one")], [|b| write(b, "f", "\0two")];
    edit_edit_of_other_lines: text, [|a| write(a, "f", "one\n2\n3\n")], [|b| write(b, "f", "1\n2\nthree\n")];
    edit_edit_of_the_same_line: text, [|a| write(a, "f", "one\n2\n3\n")], [|b| write(b, "f", "uno\n2\n3\n")];
    edit_edit_to_the_same_bytes: binary, [|a| write(a, "f", "\0same")], [|b| write(b, "f", "\0same")];
    append_append: text, [|a| write(a, "f", "1\n2\n3\na\n")], [|b| write(b, "f", "1\n2\n3\nb\n")];
    append_truncate: text, [|a| write(a, "f", "1\n2\n3\na\n")], [|b| write(b, "f", "")];
    edit_delete: text, [|a| write(a, "f", "edited")], [|b| unlink(b, "f")];
    delete_delete: text, [|a| unlink(a, "f")], [|b| unlink(b, "f")];
    edit_and_edit_then_delete: binary, [|a| write(a, "f", "\0one")], [|b| write(b, "f", "\0two"), |b| unlink(b, "f")];
    edit_then_chmod_and_delete: text, [|a| write(a, "f", "edited"), |a| chmod(a, "f")], [|b| unlink(b, "f")];
    chmod_and_delete: text, [|a| chmod(a, "f")], [|b| unlink(b, "f")];
    chmod_and_edit: binary, [|a| chmod(a, "f")], [|b| write(b, "f", "\0two")];
    chmod_and_edit_then_delete: binary, [|a| chmod(a, "f")], [|b| write(b, "f", "\0two"), |b| unlink(b, "f")];
    chmod_of_an_old_version_and_newer_edits_then_promotion:
        binary, [|a| chmod(a, "f")], [two_versions], then |a| write(a, "f", "\0again");
    chmod_of_an_old_version_and_newer_edits_then_rename:
        binary, [|a| chmod(a, "f")], [two_versions], then |a| mv(a, "f", "g");
    edit_edit_then_rename_of_the_holder:
        binary, [|a| write(a, "f", "\0one")], [|b| write(b, "f", "\0two")], then |a| mv(a, "f", "g");
    unlink_of_one_link_and_edit: linked, [|a| write(a, "f", "edited")], [|b| unlink(b, "f")];
    unlink_of_all_links_and_edit: linked, [|a| write(a, "g", "edited")], [|b| unlink(b, "f"), |b| unlink(b, "g")];
    edit_through_one_link_then_unlink_of_it_and_unlink_of_the_other:
        linked, [|a| write(a, "f", "edited"), |a| unlink(a, "f")], [|b| unlink(b, "g")];
    unlink_of_each_link: linked, [|a| unlink(a, "f")], [|b| unlink(b, "g")];
    rename_edit: text, [|a| mv(a, "f", "g")], [|b| write(b, "f", "edited")];
    rename_delete: text, [|a| mv(a, "f", "g")], [|b| unlink(b, "f")];
    rename_rename: text, [|a| mv(a, "f", "g")], [|b| mv(b, "f", "h")];
    rename_and_move: text_and_dirs, [|a| mv(a, "f", "g")], [|b| mv(b, "f", "d/f")];
    move_move: text_and_dirs, [|a| mv(a, "f", "d/f")], [|b| mv(b, "f", "e/f")];
    two_entries_to_one_name: two_files, [|a| mv(a, "x", "z")], [|b| mv(b, "y", "z")], then |a| mv(a, "z", "w");
    cycle_of_two: two_dirs, [|a| mv(a, "x", "y/x")], [|b| mv(b, "y", "x/y")];
    cycle_through_directories_between:
        two_deep_dirs, [|a| mv(a, "x", "y/z/x")], [|b| mv(b, "y", "x/w/y")];
    cycle_then_a_move_of_the_displaced: two_dirs, [|a| mv(a, "x", "y/x")], [|b| mv(b, "y", "x/y")], then top_into_z;
    move_into_a_removed_directory: text_and_dirs, [|a| mv(a, "f", "d/f")], [|b| rm_r(b, "d")];
    create_in_a_removed_directory: text_and_dirs, [|a| write(a, "d/new", "new")], [|b| rm_r(b, "d")];
    create_in_a_directory_removed_and_made_again:
        dir, [|a| write(a, "d/new", "new")], [|b| rm_r(b, "d"), |b| mkdir(b, "d")];
    edit_and_move_into_a_directory_that_is_removed:
        text_and_dirs, [|a| write(a, "f", "edited")], [|b| mv(b, "f", "d/f"), |b| rm_r(b, "d")];
    rm_r_and_edit_inside: dir, [|a| rm_r(a, "d")], [|b| write(b, "d/e/f", "edited")];
    rm_r_and_move_of_a_child_out: dir, [|a| rm_r(a, "d")], [|b| mv(b, "d/e/f", "f")];
    rm_r_and_rename_of_the_directory: dir, [|a| rm_r(a, "d")], [|b| mv(b, "d", "g")];
    swap_by_renames_and_edit:
        two_files, [|a| mv(a, "x", "t"), |a| mv(a, "y", "x"), |a| mv(a, "t", "y")], [|b| write(b, "x", "edited")];
    exchange_and_edit: two_files, [exchanged], [|b| write(b, "x", "edited")];
    swap_swap:
        two_files, [exchanged], [|b| mv(b, "x", "t"), |b| mv(b, "y", "x"), |b| mv(b, "t", "y")];
    save_by_rename_and_edit:
        text, [|a| write(a, "f.new", "one\n2\n3\n"), |a| mv(a, "f.new", "f")], [|b| write(b, "f", "1\n2\nthree\n")];
    save_by_rename_of_a_temporary_file_that_all_have_seen:
        text_and_temporary, [|a| mv(a, "f.new", "f")], [|b| write(b, "f", "1\n2\nthree\n")];
    moved_aside_and_edit:
        text, [|a| mv(a, "f", "f~"), written_again, |a| unlink(a, "f~")], [|b| write(b, "f", "1\n2\nthree\n")];
    removed_and_created_again_and_edit: text, [|a| unlink(a, "f"), written_again], [|b| write(b, "f", "1\n2\nthree\n")];
    replaced_by_a_symlink_and_edit:
        text, [|a| unlink(a, "f"), |a| _ = a.symlink("elsewhere", "f").unwrap()], [|b| write(b, "f", "edited")];
    replaced_by_a_directory_and_edit: text, [|a| unlink(a, "f"), |a| mkdir(a, "f")], [|b| write(b, "f", "edited")];
    copy_deleted_and_holder_edited_and_renamed:
        conflict, [|a| unlink(a, &copy(a))], [|b| write(b, "f", "\0new"), |b| mv(b, "f", "g")];
    copy_edited_and_holder_removed: conflict, [|a| write(a, &copy(a), "\0new")], [|b| unlink(b, "f")];
    copy_edited_and_copy_edited: conflict, [|a| write(a, &copy(a), "\0new")], [|b| write(b, &copy(b), "\0newer")];
    moved_over_the_holder_and_copy_edited: conflict, [|a| mv(a, "other", "f")], [|b| write(b, &copy(b), "\0new")];
}

fn nothing(_: &mut Device) {}

fn text(a: &mut Device) {
    write(a, "f", "1\n2\n3\n");
}

fn text_and_dirs(a: &mut Device) {
    text(a);
    mkdir(a, "d");
    mkdir(a, "e");
}

fn text_and_temporary(a: &mut Device) {
    text(a);
    write(a, "f.new", "one\n2\n3\n");
}

fn binary(a: &mut Device) {
    write(a, "f", "\0base");
}

fn linked(a: &mut Device) {
    text(a);
    link(a, "f", "g");
}

fn two_files(a: &mut Device) {
    write(a, "x", "x");
    write(a, "y", "y");
    a.now_ms += 3_600_000;
}

fn two_dirs(a: &mut Device) {
    for dir in ["x", "y", "z!"] {
        mkdir(a, dir);
        write(a, &format!("{dir}/in"), dir);
    }
}

fn two_deep_dirs(a: &mut Device) {
    for dir in ["x", "x/w", "y", "y/z"] {
        mkdir(a, dir);
    }
}

fn dir(a: &mut Device) {
    for dir in ["d", "d/e"] {
        mkdir(a, dir);
    }
    write(a, "d/e/f", "base");
}

fn other(a: &mut Device) {
    write(a, "other", "\0other");
    a.now_ms += 3_600_000;
}

/// A file with a conflict copy, and another.
fn conflict(a: &mut Device) {
    binary(a);
    two_versions(a);
    other(a);
}

/// Writes a file, and once more what was opened before: the file has a conflict copy then.
fn two_versions(device: &mut Device) {
    let opened = device.find("f").unwrap();
    write(device, "f", "\0one");
    device.close_write(opened.inode, b"\0two", opened.basis).unwrap();
}

fn made_with_file(device: &mut Device) {
    mkdir(device, "d");
    let text = format!("of {}", device.name);
    write(device, "d/f", &text);
    mkdir(device, "d/e");
    write(device, &format!("d/e/{}", device.name), "in");
}

fn written_again(device: &mut Device) {
    device.write_new("f", "one\n2\n3\n").unwrap();
}

fn exchanged(device: &mut Device) {
    device.rename("x", "y", RenameMode::Exchange).unwrap();
}

/// Moves the directory of a broken cycle that stands at the top into one that is in none.
fn top_into_z(device: &mut Device) {
    let top = device.ls("").into_iter().find(|name| name != "z!").unwrap();
    mv(device, &top, &format!("z!/{top}"));
}

/// A name as long as a name may be, and another that ends otherwise.
fn long(end: char) -> String {
    format!("{}{end}", "n".repeat(254))
}

fn copy(device: &Device) -> String {
    copies(device, "")[0].clone()
}

fn write(device: &mut Device, path: &str, text: &str) {
    device.write(path, text).unwrap();
}

fn mkdir(device: &mut Device, path: &str) {
    device.mkdir(path).unwrap();
}

fn mv(device: &mut Device, from: &str, to: &str) {
    device.mv(from, to).unwrap();
}

fn link(device: &mut Device, old: &str, new: &str) {
    device.link(old, new).unwrap();
}

fn unlink(device: &mut Device, path: &str) {
    device.unlink(path).unwrap();
}

fn rm_r(device: &mut Device, path: &str) {
    device.rm_r(path).unwrap();
}

fn chmod(device: &mut Device, path: &str) {
    device.chmod(path, 0o600).unwrap();
}

/// Which of the two the third hears of before the other does, and after how many of its steps.
#[derive(Clone, Copy, Debug)]
struct Seen {
    side: usize,
    steps: usize,
}

/// The third hears of a side, and works on something else.
fn hear(third: &mut Device, side: &Device) {
    third.sync_from(side);
    third.mkdir("elsewhere").unwrap();
    third.rmdir("elsewhere").unwrap();
}

/// What all show in the end.
fn outcome(seed: u64, before: Act, sides: [&[Act]; 2], then: &[Act], seen: Option<Seen>) -> String {
    let (mut a, mut b) = (Device::new("ann", seed), Device::new("bob", seed));
    before(&mut a);
    b.sync_from(&a);
    let mut c = Device::new("cat", seed);
    c.sync_from(&a);
    for (side, steps) in sides.into_iter().enumerate() {
        let device = if side == 0 { &mut a } else { &mut b };
        for (at, step) in steps.iter().enumerate() {
            step(device);
            if seen.is_some_and(|seen| (seen.side, seen.steps) == (side, at + 1)) {
                hear(&mut c, device);
            }
        }
    }
    if let Some(seen) = seen {
        // It is the third that brings what it has seen to the other.
        [&mut b, &mut a][seen.side].sync_from(&c);
    }
    a.sync_from(&b);
    b.sync_from(&a);
    assert_eq!(a.dump(), b.dump());
    then.iter().for_each(|step| step(&mut a));
    meet(&mut [&mut a, &mut b, &mut c]);
    let shown = a.dump();
    for (name, _) in c.walk().into_iter().filter(|(path, _)| !path.contains('/')) {
        rm_r(&mut c, &name);
    }
    assert_eq!(c.dump(), "", "the third has removed all");
    meet(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(a.dump(), "", "what somebody who saw it removed is back");
    shown
}

#[track_caller]
fn ends_as_without_a_third(before: Act, one: &[Act], two: &[Act], then: &[Act]) {
    let sides = [one, two];
    for seed in 0..4 {
        let without = outcome(seed, before, sides, then, None);
        for side in [0, 1] {
            for steps in 1..=sides[side].len() {
                let seen = Seen { side, steps };
                assert_eq!(outcome(seed, before, sides, then, Some(seen)), without, "{seen:?}, seed {seed}");
            }
        }
    }
}
