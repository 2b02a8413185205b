//! Every command: what it prints, for people and as JSON, and how it ends.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, needs, run, until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

fn text(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

/// A JSON object has these fields, of these types.
#[track_caller]
fn shape(value: &Value, fields: &[(&str, &str)]) {
    for (name, kind) in fields {
        let found = match &value[*name] {
            Value::String(text)
                if *kind == "hex" && text.bytes().all(|b| b.is_ascii_hexdigit()) && !text.is_empty() =>
            {
                "hex"
            }
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
            Value::Null => "null",
        };
        assert_eq!(&found, kind, "{name} in {value}");
    }
}

/// Two devices that share a folder with a few files.
fn pair(a: &mut Device, b: &mut Device) -> (std::path::PathBuf, std::path::PathBuf) {
    let dirs = (a.dir("s"), b.dir("s"));
    a.show(Mode::Watch, None, &dirs.0);
    fs::create_dir(dirs.0.join("d")).unwrap();
    fs::write(dirs.0.join("d/f"), "some text\n").unwrap();
    fs::set_permissions(dirs.0.join("d/f"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("d/f", dirs.0.join("l")).unwrap();
    let ticket = a.invite(&dirs.0, &[]);
    b.show(Mode::Watch, Some(&ticket), &dirs.1);
    a.wait(&dirs.0, "all");
    dirs
}

#[test]
fn json_says_it_all() {
    needs!("json_says_it_all");
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["a", "b"]);
    let (dir, there) = pair(&mut a, &mut b);

    let status = a.status();
    shape(&status, &[("engine", "object"), ("shares", "array"), ("problems", "array")]);
    shape(
        &status["engine"],
        &[("pid", "number"), ("version", "string"), ("device", "hex"), ("name", "string"), ("disk", "object")],
    );
    assert_eq!(status["engine"]["name"], "a");
    assert_eq!(status["engine"]["network"], "local");
    let share = &status["shares"][0];
    shape(
        share,
        &[
            ("share", "hex"),
            ("dirs", "array"),
            ("heads", "array"),
            ("digest", "hex"),
            ("devices", "array"),
            ("transfers", "array"),
        ],
    );
    assert_eq!(share["role"], "admin");
    assert_eq!((&share["entries"], &share["bytes"]), (&3.into(), &10.into()), "{share}");
    assert_eq!(share["missing"], serde_json::json!({"files": 0, "bytes": 0}));
    assert_eq!(share["dirs"][0]["dir"], text(&dir));
    assert_eq!((&share["dirs"][0]["mode"], &share["dirs"][0]["state"]), (&"watch".into(), &"ready".into()));
    let devices = share["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    assert_eq!((&devices[0]["me"], &devices[1]["name"]), (&true.into(), &"b".into()));
    assert_eq!((&devices[1]["connected"], &devices[1]["in_sync"]), (&true.into(), &true.into()), "{share}");
    assert_eq!(devices[1]["route"], "direct");
    // From inside, and for one share, it is the same share.
    let inside = a.json(&["status", text(&dir.join("d"))]);
    assert_eq!(inside["shares"][0]["share"], share["share"]);
    // Both mean the same tree.
    assert_eq!(b.status()["shares"][0]["digest"], share["digest"]);
    assert_eq!(b.status()["shares"][0]["heads"], share["heads"]);

    let peers = a.json(&["peers"]);
    let peer = &peers["peers"][0];
    shape(
        peer,
        &[
            ("device", "hex"),
            ("addresses", "array"),
            ("rate_in", "number"),
            ("bytes_out", "number"),
            ("since_ms", "number"),
        ],
    );
    assert_eq!((&peer["name"], &peer["connected"], &peer["route"]), (&"b".into(), &true.into(), &"direct".into()));

    let members = a.json(&["members", text(&dir)]);
    let members = members["members"].as_array().unwrap();
    assert_eq!(
        (&members[0]["name"], &members[0]["role"], &members[0]["me"]),
        (&"a".into(), &"admin".into(), &true.into())
    );
    assert_eq!(
        (&members[1]["name"], &members[1]["role"], &members[1]["invited_by"]),
        (&"b".into(), &"write".into(), &"a".into())
    );

    let invited = a.json(&["invite", text(&dir), "--role", "read", "--uses", "3", "--expires", "2h"]);
    shape(&invited, &[("ticket", "string"), ("share", "hex"), ("expires_ms", "number")]);
    assert_eq!((&invited["role"], &invited["uses"]), (&"read".into(), &3.into()));

    let waited = a.json(&["wait", text(&dir)]);
    assert_eq!(waited["done"], true);

    let listed = b.json(&["ls", "--recursive", text(&there)]);
    let entries = listed.as_array().unwrap();
    let names: Vec<_> = entries.iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["d", "d/f", "l"]);
    let file = &entries[1];
    shape(file, &[("mtime_ms", "number"), ("conflict", "bool"), ("pending", "bool")]);
    assert_eq!(
        (&file["kind"], &file["size"], &file["mode"], &file["local"]),
        (&"file".into(), &10.into(), &0o640.into(), &"whole".into())
    );
    assert_eq!(file["blake3"], blake3::hash(b"some text\n").to_hex().as_str());
    assert_eq!((&entries[0]["kind"], &entries[2]["kind"]), (&"dir".into(), &"symlink".into()));

    let checked = a.json(&["check"]);
    shape(
        &checked,
        &[("shares", "number"), ("chunks", "number"), ("bytes", "number"), ("changes", "number"), ("details", "array")],
    );
    assert_eq!((&checked["findings"], &checked["shares"]), (&0.into(), &1.into()));
    a.stop();
    b.stop();
}

#[test]
fn the_log_has_every_event() {
    needs!("the_log_has_every_event", Fuse);
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["anna"]);
    let dir = a.dir("s");
    a.show(Mode::Mount, None, &dir);
    let events = |path: &Path| {
        let said = a.json(&["log", text(path)]);
        // One event is an object, several are one a line.
        let list = if said.is_array() { said.as_array().unwrap().clone() } else { vec![said] };
        list.iter()
            .map(|event| (event["event"].as_str().unwrap().to_owned(), event["path"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let after = |count: usize| {
        until("the event is in the log", LIMIT, || {
            let all = events(&dir);
            if all.len() >= count { Ok(all) } else { Err(format!("{all:?}")) }
        })
    };
    fs::write(dir.join("f"), "one\n").unwrap();
    let first = after(1);
    assert_eq!(first[0], ("create".into(), "f".into()));
    fs::write(dir.join("f"), "another one\n").unwrap();
    let second = after(2);
    assert_eq!(second[1], ("update".into(), "f".into()), "{second:?}");
    fs::rename(dir.join("f"), dir.join("g")).unwrap();
    fs::remove_file(dir.join("g")).unwrap();
    let all = until("all is in the log", LIMIT, || {
        let all = events(&dir);
        if all.last().is_some_and(|(event, _)| event == "delete") { Ok(all) } else { Err(format!("{all:?}")) }
    });
    assert!(all.contains(&("move".into(), "g".into())), "{all:?}");
    assert_eq!(all.last().unwrap(), &("delete".into(), "g".into()));
    let said = a.json(&["log", text(&dir)]);
    let last = said.as_array().unwrap().last().unwrap();
    shape(last, &[("time", "string"), ("time_ms", "number"), ("device_id", "hex"), ("version", "hex")]);
    assert_eq!(last["device"], "anna");
    // With its bytes' hash, as `b3sum` prints it.
    fs::write(dir.join("h"), "two\n").unwrap();
    let hash = blake3::hash(b"two\n").to_hex();
    until("the version is in the log", LIMIT, || {
        let said = a.ok(&["log", text(&dir.join("h")), "--json"]);
        if said.contains(hash.as_str()) { Ok(()) } else { Err(said) }
    });
    a.stop();
}

#[test]
fn people_read_it_too() {
    needs!("people_read_it_too");
    let lab = Lab::new();
    let (_segment, [mut a, mut b]) = lab.on_one_segment(["anna", "bert"]);
    let (dir, _) = pair(&mut a, &mut b);
    for (args, words) in [
        (vec!["status"], vec!["anna", "bert", text(&dir)]),
        (vec!["status", text(&dir)], vec!["anna", "bert", text(&dir)]),
        (vec!["peers"], vec!["bert", "direct"]),
        (vec!["members", text(&dir)], vec!["anna", "bert", "admin", "write"]),
        (vec!["ls", text(&dir)], vec!["d/", "l"]),
        (vec!["log", text(&dir)], vec!["anna", "create", "d/f"]),
    ] {
        let said = a.ok(&args);
        for word in words {
            assert!(said.contains(word), "{args:?} lacks {word}: {said}");
        }
        assert!(!said.contains('\u{1b}'), "no colours into a pipe: {said:?}");
    }
    // Nothing but data on stdout: these have none.
    for args in [vec!["wait", text(&dir)], vec!["start"]] {
        let done = a.run(&args);
        assert_eq!((done.code, done.text().as_str()), (Some(0), ""), "{done}");
    }
    a.stop();
    b.stop();
}

#[test]
fn wrong_usage_is_2_and_failure_1() {
    needs!("wrong_usage_is_2_and_failure_1");
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    let (dir, elsewhere) = (a.dir("s"), a.dir("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    // Wrong usage needs no engine.
    for args in [
        vec![],
        vec!["mount"],
        vec!["mount", "a", "b", "c"],
        vec!["frobnicate"],
        vec!["invite", text(&dir), "--uses", "0"],
        vec!["invite", text(&dir), "--uses", "many"],
        vec!["invite", text(&dir), "--role", "king"],
        vec!["invite", text(&dir), "--expires", "soon"],
        vec!["wait", text(&dir), "--devices", "-1"],
        vec!["wait", text(&dir), "--timeout", "long"],
        vec!["watch", text(&dir), "--allow-nobody"],
    ] {
        let done = a.run(&args);
        assert_eq!(done.code, Some(2), "{done}");
        assert!(!done.stderr.is_empty(), "{done}");
    }
    assert!(!a.state_dir().exists(), "nothing was begun");
    // Without an engine there is nothing to ask.
    for args in [
        vec!["status"],
        vec!["peers"],
        vec!["wait"],
        vec!["check"],
        vec!["conflicts"],
        vec!["invite", text(&elsewhere)],
    ] {
        let said = a.fails(1, &args);
        assert!(said.contains("start"), "it says what to do: {said}");
    }
    a.show(Mode::Watch, None, &dir);
    for command in ["invite", "status", "members", "ls", "log", "conflicts", "restore", "wait", "check", "unmount"] {
        let said = a.fails(1, &[command, text(&elsewhere)]);
        assert!(said.contains(text(&elsewhere)), "{command}: {said}");
    }
    for command in ["ls", "log", "unmount"] {
        let said = a.fails(1, &[command, text(&dir.join("nowhere"))]);
        assert!(said.contains("nowhere"), "{said}");
    }
    // Members that are not there are not waited for in silence, and it is said of which share.
    let said = a.fails(3, &["wait", "--devices", "5", "--timeout", "100ms"]);
    assert!(
        said.contains(text(&dir)) && said.contains("0 other members") && said.contains("5 are waited for"),
        "{said}"
    );
    let said = a.fails(3, &["wait", "--devices", "connected", "--timeout", "100ms"]);
    assert!(said.contains(text(&dir)) && said.contains("no other device is connected"), "{said}");
    // A name need not be text.
    let odd = a.dir("s").with_file_name(std::ffi::OsStr::from_bytes(b"odd\xff"));
    a.ok(&["watch".as_ref(), odd.as_os_str()]);
    fs::write(odd.join("f"), "odd\n").unwrap();
    a.ok(&["unmount".as_ref(), odd.as_os_str()]);
    a.ok(&["watch".as_ref(), odd.as_os_str()]);
    until("what lies there is in the share", LIMIT, || match a.ok(&["ls".as_ref(), odd.as_os_str()]) {
        said if said.contains('f') => Ok(()),
        said => Err(said),
    });
    // What others gave in the environment is no part of how a command is used.
    let said = a.fails(2, &["mount"]);
    assert!(said.contains("mount [OPTIONS] [TICKET] <DIR>"), "{said}");
    a.stop();
}

#[test]
fn help_version_and_broken_pipes() {
    needs!("help_version_and_broken_pipes");
    let lab = Lab::new();
    let (_segment, [mut a]) = lab.on_one_segment(["a"]);
    let version = a.ok(&["--version"]);
    assert!(version.starts_with("crdtfs ") && version.trim().split('.').count() == 3, "{version}");
    let help = a.ok(&["--help"]);
    for command in [
        "mount",
        "watch",
        "unmount",
        "invite",
        "status",
        "wait",
        "peers",
        "members",
        "ls",
        "log",
        "conflicts",
        "restore",
        "check",
        "start",
        "stop",
    ] {
        assert!(help.contains(command), "{help}");
        let own = a.ok(&[command, "--help"]);
        assert!(own.contains("Example"), "{own}");
    }
    // Who reads has enough: no error, no panic.
    let dir = a.dir("s");
    fs::create_dir(&dir).unwrap();
    for n in 0..3_000 {
        fs::write(dir.join(format!("a-rather-long-name-so-that-the-pipe-fills-{n}")), "").unwrap();
    }
    a.show(Mode::Watch, None, &dir);
    until("the folder is scanned", LIMIT, || {
        let entries = a.status()["shares"][0]["entries"].as_u64();
        if entries == Some(3_000) { Ok(()) } else { Err(format!("{entries:?}")) }
    });
    let inner = a.crdtfs(&["ls", text(&dir)]);
    let mut command = Command::new("bash");
    command
        .args(["-c", "\"$@\" | head -n 1; exit ${PIPESTATUS[0]}", "bash"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let done = run(command, LIMIT);
    assert_eq!((done.code, done.stderr.as_str(), done.text().lines().count()), (Some(0), "", 1), "{done}");
    a.stop();
}

#[test]
fn where_settings_come_from() {
    needs!("where_settings_come_from");
    let lab = Lab::new();
    let (_segment, [a]) = lab.on_one_segment(["flag"]);
    let state = a.dir("configured");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(state.join("config.toml"), "name = \"file\"\nnetwork = \"local\"\n").unwrap();
    // Flag before environment before file.
    let name = |env: Option<&str>, flag: Option<&str>| {
        let crdtfs = |args: &[&str]| {
            let mut command = a.program(crdtfs_tests::binary());
            command.env("CRDTFS_STATE_DIR", &state).args(args).stdin(Stdio::null());
            command.envs(env.map(|name| ("CRDTFS_NAME", name))).args(flag.iter().flat_map(|name| ["--name", name]));
            run(command, LIMIT).ok()
        };
        crdtfs(&["start"]);
        let status: Value = serde_json::from_str(&crdtfs(&["status", "--json"])).unwrap();
        crdtfs(&["stop"]);
        assert_eq!(status["engine"]["network"], "local");
        status["engine"]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(name(None, None), "file");
    assert_eq!(name(Some("environment"), None), "environment");
    assert_eq!(name(Some("environment"), Some("flag")), "flag");
    fs::write(state.join("config.toml"), "name = 7\n").unwrap();
    let mut command = a.program(crdtfs_tests::binary());
    command.env("CRDTFS_STATE_DIR", &state).arg("start");
    let done = run(command, LIMIT);
    assert_eq!(done.code, Some(2), "{done}");
    assert!(done.stderr.contains("config.toml"), "{done}");
}
