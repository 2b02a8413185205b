//! What the history tells of saves: one update each, however programs make them.

#![allow(clippy::unwrap_used)]

use crdtfs_core::history::{Action, Event, History, Stamp};
use crdtfs_core::id::DeviceId;
use crdtfs_core::node::Kind;
use crdtfs_testkit::{Device, copies, meet, two};

/// All that the records of a device tell.
fn events(device: &Device) -> Vec<Event> {
    let mut history = History::default();
    for (id, record) in &device.log {
        history.take(Stamp { device: DeviceId([1; 32]), time_ms: 0 }, *id, record);
    }
    history.into_events()
}

/// Action and path of each event from the `from`th on.
fn told(device: &Device, from: usize) -> Vec<(Action, String)> {
    let path = |event: &Event| String::from_utf8(event.path.clone()).unwrap();
    events(device)[from..].iter().map(|event| (event.action, path(event))).collect()
}

fn one(action: Action, path: &str) -> Vec<(Action, String)> {
    vec![(action, path.to_string())]
}

#[test]
fn a_save_is_one_update() {
    let saves: [fn(&mut Device, &str); 5] = [
        |a, file| {
            a.write_new("temp", "new").unwrap();
            a.mv("temp", file).unwrap();
        },
        |a, file| {
            a.write_new("temp", "").unwrap();
            a.write("temp", "new").unwrap();
            a.chmod("temp", 0o600).unwrap();
            a.unlink(file).unwrap();
            a.mv("temp", file).unwrap();
        },
        |a, file| {
            a.mv(file, "aside~").unwrap();
            a.write_new(file, "new").unwrap();
            a.unlink("aside~").unwrap();
        },
        |a, file| {
            a.unlink(file).unwrap();
            a.write_new(file, "new").unwrap();
        },
        |a, file| {
            a.unlink(file).unwrap();
            a.write_new(file, "").unwrap();
            a.write(file, "new").unwrap();
        },
    ];
    for save in saves {
        let (mut a, mut b) = two(|a| _ = a.write("f", "old").unwrap());
        let before = events(&a).len();
        save(&mut a, "f");
        assert_eq!(a.read("f").unwrap(), "new");
        assert_eq!(told(&a, before), one(Action::Update, "f"));
        let last = events(&a).pop().unwrap();
        assert_eq!(last.inode, a.find("f").unwrap().inode);
        assert_eq!(last.content, Some(a.find("f").unwrap().content));
        // What is done then is told as ever.
        let before = events(&a).len();
        a.mv("f", "g").unwrap();
        a.write("g", "again").unwrap();
        a.unlink("g").unwrap();
        let actions: Vec<_> = told(&a, before).into_iter().map(|(action, _)| action).collect();
        assert_eq!(actions, [Action::Move, Action::Update, Action::Delete]);
        meet(&mut [&mut a, &mut b]);
    }
}

/// Others saw it under that name meanwhile.
#[test]
fn a_backup_that_stood_for_a_while_is_told() {
    let log = |wait: i64| {
        let mut history = History::default();
        let (mut a, _) = two(|a| _ = a.write("f", "old").unwrap());
        let mut taken = 0;
        let mut take = |device: &Device, time_ms: i64| {
            for (id, record) in &device.log[taken..] {
                history.take(Stamp { device: DeviceId([1; 32]), time_ms }, *id, record);
            }
            taken = device.log.len();
        };
        take(&a, 0);
        a.mv("f", "f.bak").unwrap();
        take(&a, 0);
        a.write_new("f", "new").unwrap();
        take(&a, wait);
        a.unlink("f.bak").unwrap();
        take(&a, wait);
        let told = |event: Event| (event.action, String::from_utf8(event.path).unwrap());
        history.into_events().into_iter().map(told).collect::<Vec<_>>()
    };
    let (made, moved, saved) = (one(Action::Create, "f"), one(Action::Move, "f.bak"), one(Action::Update, "f"));
    assert_eq!(log(1000), [made.clone(), saved.clone()].concat());
    assert_eq!(log(60_000), [made, moved, saved].concat());
}

#[test]
fn a_save_of_a_conflict_copy_is_one_update() {
    let (mut a, mut b) = two(|a| _ = a.write("f", b"\0base").unwrap());
    a.write("f", b"\0one").unwrap();
    b.write("f", b"\0two").unwrap();
    meet(&mut [&mut a, &mut b]);
    let copy = copies(&a, "")[0].clone();
    let before = events(&a).len();
    a.mv(&copy, "aside~").unwrap();
    a.write_new(&copy, b"\0new").unwrap();
    a.unlink("aside~").unwrap();
    assert_eq!(told(&a, before), one(Action::Update, &copy));
}

#[test]
fn versions_that_were_written_under_another_name_before_a_save_are_told() {
    let (mut a, _) = two(|a| _ = a.write("f", "old").unwrap());
    let before = events(&a).len();
    a.write_new("temp", "first").unwrap();
    a.write("temp", "new").unwrap();
    a.mv("temp", "f").unwrap();
    let told = told(&a, before);
    assert_eq!(told, [one(Action::Create, "temp"), one(Action::Update, "f")].concat());
}

#[test]
fn files_that_are_found_to_be_one_were_both_made() {
    let (mut a, mut b) = two(|_| {});
    a.write("f", "same").unwrap();
    b.write("f", "same").unwrap();
    meet(&mut [&mut a, &mut b]);
    a.write("f", "new").unwrap();
    a.chmod("f", 0o600).unwrap();
    let actions: Vec<_> = told(&a, 0).into_iter().map(|(action, _)| action).collect();
    assert_eq!(actions, [Action::Create, Action::Create, Action::Update, Action::Update]);
}

#[test]
fn a_file_that_was_removed_and_made_anew_later_is_told_so() {
    let (mut a, _) = two(|a| _ = a.write("f", "old").unwrap());
    let before = events(&a).len();
    a.unlink("f").unwrap();
    a.now_ms += 6000;
    a.write_new("f", "new").unwrap();
    assert_eq!(told(&a, before), [one(Action::Delete, "f"), one(Action::Create, "f")].concat());
}

/// The children that were removed are gone, and the history has what they were, and where: the whole directory can be had
/// again below its new name.
#[test]
fn what_was_removed_from_a_directory_that_was_renamed_is_in_the_history() {
    let (mut a, mut b) = two(|a| {
        for dir in ["d", "d/e"] {
            a.mkdir(dir).unwrap();
        }
        a.write("d/f", "of f").unwrap();
        a.write("d/e/g", "of g").unwrap();
    });
    let there = b.log.clone();
    a.mv("d", "new").unwrap();
    b.rm_r("d").unwrap();
    meet(&mut [&mut a, &mut b]);
    assert_eq!(a.walk().into_iter().map(|(path, _)| path).collect::<Vec<_>>(), ["new"]);
    // Each child's removal is told, by who did it, and each has its last version.
    let events = events(&a);
    let of = |action: Action, name: &str| {
        let is = |event: &&Event| event.action == action && event.path.ends_with(name.as_bytes());
        events.iter().filter(is).cloned().collect::<Vec<_>>()
    };
    for (name, text) in [("f", Some("of f")), ("e/g", Some("of g")), ("/e", None)] {
        let removed = of(Action::Delete, name);
        assert_eq!(removed.len(), 1, "{name}: {removed:?}");
        assert_eq!(removed[0].device_name, "bob");
        let made = of(Action::Create, name);
        assert_eq!((made.len(), made[0].inode), (1, removed[0].inode), "{name}");
        let bytes = made[0].content.filter(|_| text.is_some()).and_then(|content| a.bytes(&content));
        assert_eq!(bytes.as_deref(), text.map(str::as_bytes));
    }
    // A state of the past is a view of the records of that time. What it shows is made again where the directory is now.
    let mut past = Device::new("past", 7);
    past.receive(&there);
    past.sync_bytes(&a);
    for (path, node) in past.walk().into_iter().filter(|(path, _)| path != "d") {
        let path = path.replacen("d", "new", 1);
        match node.kind {
            Kind::Dir => a.mkdir(&path).unwrap(),
            _ => a.write_new(&path, past.bytes(&node.content).unwrap()).unwrap(),
        };
    }
    meet(&mut [&mut a, &mut b]);
    let paths: Vec<_> = b.walk().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["new", "new/e", "new/e/g", "new/f"]);
    assert_eq!((b.read("new/f").unwrap(), b.read("new/e/g").unwrap()), ("of f".into(), "of g".into()));
}
