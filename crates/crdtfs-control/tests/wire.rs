//! The lines of the protocol, as other programs rely on them. A change of these snapshots is a change of the contract.
#![allow(clippy::unwrap_used)]

use crdtfs_control::reply::{How, Item, Progress, Shown, Unit};
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
    let shown =
        Shown { share: "aa".to_owned(), dir: "/d".into(), mode: Mode::Watch, how: How::Created, role: Role::Admin };
    insta::assert_snapshot!(json(Item::Ready(shown.clone())), @r#"{"item":"ready","share":"aa","dir":"/d","mode":"watch","how":"created","role":"admin"}"#);
    insta::assert_snapshot!(json(Reply::from(shown)), @r#"{"reply":"shown","share":"aa","dir":"/d","mode":"watch","how":"created","role":"admin"}"#);
    let failure = Failure::new(FailureKind::NotFound, "no").with_hint("yes");
    insta::assert_snapshot!(json(failure), @r#"{"kind":"not_found","message":"no","hint":"yes"}"#);
    assert_eq!(serde_json::from_str::<Item>(r#"{"item":"tomorrow","x":1}"#).unwrap(), Item::Unknown);
}
