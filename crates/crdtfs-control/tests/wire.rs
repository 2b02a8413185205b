//! The lines of the protocol, as other programs rely on them. A change of these snapshots is a change of the contract.
#![allow(clippy::unwrap_used)]

use crdtfs_control::reply::{Conflict, EntryKind, How, Item, Kept, Lost, Progress, Restored, Shown, Side, Unit};
use crdtfs_control::request::{self, Mode, Owner, Role, Show, ShowOptions, Status, WaitFor};
use crdtfs_control::{DirText, Failure, FailureKind, Reply, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The JSON of a value, which reads back as the value.
fn json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T) -> String {
    let json = serde_json::to_string(&value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&json).unwrap(), value);
    json
}

#[test]
fn requests() {
    let show = Show {
        mode: Mode::Mount,
        ticket: Some("crdtfsa".to_owned()),
        dir: "/d".into(),
        options: ShowOptions {
            read_only: true,
            allow_other: false,
            owner: Owner::Fixed { uid: 1, gid: 2 },
            on_demand: true,
            cache: None,
        },
        attach: true,
    };
    insta::assert_snapshot!(json(Request::from(show)), @r#"{"request":"show","mode":"mount","ticket":"crdtfsa","dir":"/d","options":{"read_only":true,"allow_other":false,"owner":{"fixed":{"uid":1,"gid":2}},"on_demand":true},"attach":true}"#);
    let invite = request::Invite { dir: DirText::from_bytes(b"/\xff"), role: Role::Read, expires_ms: 5, uses: 2 };
    insta::assert_snapshot!(json(Request::from(invite)), @r#"{"request":"invite","dir":"/�","dir_base64":"L/8=","role":"read","expires_ms":5,"uses":2}"#);
    insta::assert_snapshot!(json(Request::from(Status { dir: None })), @r#"{"request":"status"}"#);
    insta::assert_snapshot!(json(Request::from(Status { dir: Some("/d".into()) })), @r#"{"request":"status","dir":"/d"}"#);
    let wait = request::Wait { dir: None, devices: WaitFor::Count(2), timeout_ms: 7 };
    insta::assert_snapshot!(json(Request::from(wait)), @r#"{"request":"wait","devices":{"count":2},"timeout_ms":7}"#);
    let restore = request::Restore {
        path: "/d/f".into(),
        version_id: Some("a1".to_owned()),
        at_ms: None,
        to: Some("/d/g".into()),
    };
    insta::assert_snapshot!(json(Request::from(restore)), @r#"{"request":"restore","path":"/d/f","version_id":"a1","to":"/d/g"}"#);
    let restore = request::Restore { path: "/d/f".into(), version_id: None, at_ms: Some(-1), to: None };
    insta::assert_snapshot!(json(Request::from(restore)), @r#"{"request":"restore","path":"/d/f","at_ms":-1}"#);
    insta::assert_snapshot!(json(Request::from(request::Keep { path: "/d/f".into() })), @r#"{"request":"keep","path":"/d/f"}"#);
    insta::assert_snapshot!(json(Request::from(request::Conflicts { dir: None })), @r#"{"request":"conflicts"}"#);
}

#[test]
fn options_are_said_as_the_flags_of_the_command_line() {
    let said = |options: ShowOptions| options.to_string();
    assert_eq!(said(ShowOptions::default()), "");
    let all = ShowOptions {
        read_only: true,
        allow_other: true,
        owner: Owner::Fixed { uid: 7, gid: 8 },
        on_demand: true,
        cache: Some(3 << 29),
    };
    assert_eq!(said(all), "--read-only --allow-other --owner 7:8 --on-demand --cache 1536MiB");
    for (bytes, words) in
        [(0, "--cache 0"), (1000, "--cache 1000"), (5 << 30, "--cache 5GiB"), (1 << 50, "--cache 1024TiB")]
    {
        let options = ShowOptions { owner: Owner::Keep, cache: Some(bytes), ..ShowOptions::default() };
        assert_eq!(said(options), format!("--owner keep {words}"));
    }
}

#[test]
fn least_fields_suffice() {
    let show: Request = serde_json::from_str(r#"{"request":"show","mode":"watch","dir":"/d"}"#).unwrap();
    let expected =
        Show { mode: Mode::Watch, ticket: None, dir: "/d".into(), options: ShowOptions::default(), attach: false };
    assert_eq!(show, Request::from(expected));
}

#[test]
fn answers() {
    let progress = Progress { what: "fetching".to_owned(), done: 1, total: None, unit: Unit::Bytes };
    insta::assert_snapshot!(json(Item::Progress(progress)), @r#"{"item":"progress","what":"fetching","done":1,"unit":"bytes"}"#);
    let shown = Shown {
        share: "aa".to_owned(),
        dir: "/d".into(),
        mode: Mode::Watch,
        how: How::Created,
        role: Role::Admin,
        options: ShowOptions::default(),
    };
    insta::assert_snapshot!(json(Item::Ready(shown.clone())), @r#"{"item":"ready","share":"aa","dir":"/d","mode":"watch","how":"created","role":"admin","options":{"read_only":false,"allow_other":false,"owner":"mounter","on_demand":false}}"#);
    insta::assert_snapshot!(json(Reply::from(shown)), @r#"{"reply":"shown","share":"aa","dir":"/d","mode":"watch","how":"created","role":"admin","options":{"read_only":false,"allow_other":false,"owner":"mounter","on_demand":false}}"#);
    let side = |path: &str, size| Side {
        path: path.into(),
        kind: EntryKind::File,
        device: "desk".to_owned(),
        device_id: "dd".to_owned(),
        time_ms: 5,
        version: "ee".to_owned(),
        blake3: Some("bb".to_owned()),
        size: Some(size),
    };
    let conflict = Conflict {
        share: "aa".to_owned(),
        dir: "/d".into(),
        copy: side("f (conflict desk ee)", 1),
        of: side("f", 2),
        pending: false,
    };
    insta::assert_snapshot!(json(Item::Conflict(Box::new(conflict))), @r#"{"item":"conflict","share":"aa","dir":"/d","path":"f (conflict desk ee)","kind":"file","device":"desk","device_id":"dd","time_ms":5,"version":"ee","blake3":"bb","size":1,"of":{"path":"f","kind":"file","device":"desk","device_id":"dd","time_ms":5,"version":"ee","blake3":"bb","size":2},"pending":false}"#);
    let kept = Kept { path: "f".into(), removed: vec!["f (conflict desk ee)".into()] };
    insta::assert_snapshot!(json(Reply::from(kept)), @r#"{"reply":"kept","path":"f","removed":[{"path":"f (conflict desk ee)"}]}"#);
    let lost = Lost {
        path: "f".into(),
        blake3: "bb".to_owned(),
        size: 3,
        devices: vec!["desk".to_owned()],
        reason: "not reached".to_owned(),
    };
    insta::assert_snapshot!(json(Item::Lost(lost)), @r#"{"item":"lost","path":"f","blake3":"bb","size":3,"devices":["desk"],"reason":"not reached"}"#);
    let restored = Restored { path: "f".into(), entries: 4, changed: 3, bytes: 2, lost: 1 };
    insta::assert_snapshot!(json(Reply::from(restored)), @r#"{"reply":"restored","path":"f","entries":4,"changed":3,"bytes":2,"lost":1}"#);
    let failure = Failure::new(FailureKind::NotFound, "no").with_hint("yes");
    insta::assert_snapshot!(json(failure), @r#"{"kind":"not_found","message":"no","hint":"yes"}"#);
    assert_eq!(serde_json::from_str::<Item>(r#"{"item":"tomorrow","x":1}"#).unwrap(), Item::Unknown);
}
