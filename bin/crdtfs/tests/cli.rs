//! The program as a user runs it, against a service that answers from a book: what is printed where, and the exit codes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use crdtfs_control::reply::{
    Action, Checked, Entry, EntryKind, Event, Finding, How, Invited, Lacking, Listed, Local, Logged, Member, Members,
    Peer, Peers, Pong, Shown, Waited,
};
use crdtfs_control::request::{Mode, Role, ShowOptions};
use crdtfs_control::status::{
    Device, Disk, Engine, Missing, Problem, Route, Share, ShowState, Showing, Status, Transfer,
};
use crdtfs_control::{BoxFuture, Failure, FailureKind, Item, Listener, PathText, Reply, Request, Service, Talk};
use tokio::sync::oneshot;

/// Answers from a book.
struct Book;

impl Service for Book {
    fn call<'a>(&'a self, request: Request, talk: &'a mut Talk) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(async move {
            match request {
                Request::Ping(_) => Ok(pong().into()),
                Request::Show(show) if show.dir.as_str().ends_with("full") => {
                    Err(Failure::new(FailureKind::Busy, "the directory is not empty").with_hint("use `watch`"))
                }
                Request::Show(show) => {
                    let again = show.dir.as_str().ends_with("again");
                    let how = if again { How::Already } else { How::Created };
                    let options = if again {
                        ShowOptions { read_only: true, on_demand: true, cache: Some(3 << 29), ..show.options }
                    } else {
                        show.options
                    };
                    let (share, dir, mode) = (id(), show.dir, show.mode);
                    Ok(Shown { share, dir, mode, how, role: Role::Admin, options }.into())
                }
                Request::Invite(invite) => Ok(Invited {
                    ticket: format!("crdtfs{}", invite.expires_ms),
                    share: id(),
                    role: invite.role,
                    expires_ms: 0,
                    uses: invite.uses,
                }
                .into()),
                Request::Status(_) => Ok(status().into()),
                Request::Wait(_) => {
                    Ok(Waited { done: false, devices: vec![lacking("desk"), lacking("lap\x1b")] }.into())
                }
                Request::Peers(_) => Ok(peers().into()),
                Request::Members(_) => Ok(members().into()),
                Request::Ls(ls) => list(talk, ls.recursive).await,
                Request::Log(_) => log(talk).await,
                Request::Check(check) => verify(talk, check.repair).await,
                other => Err(Failure::failed(format!("not in the book: {other:?}"))),
            }
        })
    }
}

fn id() -> String {
    "5c9e".repeat(16)
}

fn pong() -> Pong {
    Pong {
        protocol: 1,
        version: "0.1.0".to_owned(),
        pid: 7,
        device: "3f".repeat(32),
        name: "lap".to_owned(),
        network: "local".to_owned(),
    }
}

fn lacking(name: &str) -> Lacking {
    Lacking {
        share: id(),
        dir: Some("/home/me/Shared".into()),
        device: "ab".repeat(32),
        name: name.to_owned(),
        me: false,
        connected: name == "desk",
        same_heads: false,
        unanswered_ms: None,
        missing: Missing { files: 1, bytes: 10 },
        paths: vec!["a/b".into()],
    }
}

fn device(name: &str, me: bool, connected: bool) -> Device {
    Device {
        device: "ab".repeat(32),
        name: name.to_owned(),
        role: Role::Write,
        me,
        connected,
        route: connected.then_some(Route::Direct),
        in_sync: Some(connected),
        error: (!connected).then(|| "no answer within 10 s".to_owned()),
        missing: None,
        last_seen_ms: None,
    }
}

fn status() -> Status {
    let problem = |message: &str| Problem { path: Some("/home/me/Shared/x".into()), message: message.to_owned() };
    Status {
        engine: Engine {
            pid: 7,
            version: "0.1.0".to_owned(),
            since_ms: 0,
            device: "3f".repeat(32),
            name: "lap".to_owned(),
            network: "local".to_owned(),
            disk: Disk { used: 5 << 20, free: 3 << 30 },
        },
        shares: vec![Share {
            share: id(),
            role: Role::Admin,
            dirs: vec![Showing {
                dir: "/home/me/Shared".into(),
                mode: Mode::Mount,
                state: ShowState::Ready,
                read_only: false,
                on_demand: false,
            }],
            heads: vec!["00".repeat(32)],
            digest: "11".repeat(32),
            entries: 5_012,
            bytes: 1 << 30,
            missing: Missing { files: 2, bytes: 4096 },
            devices: vec![device("lap", true, true), device("desk", false, true), device("phone", false, false)],
            transfers: vec![Transfer { path: "a/b.bin".into(), done: 1024, total: 4096 }],
            problems: vec![problem("cannot be read: permission denied")],
        }],
        problems: Vec::new(),
    }
}

fn peers() -> Peers {
    let peer = |name: &str, connected: bool| Peer {
        device: "ab".repeat(32),
        name: name.to_owned(),
        connected,
        route: connected.then_some(Route::Relayed),
        addresses: vec!["10.0.0.2:4000".to_owned()],
        rtt_us: connected.then_some(1_500),
        rate_in: 1024,
        rate_out: 0,
        bytes_in: 2048,
        bytes_out: 0,
        since_ms: None,
        last_error: (!connected).then(|| "no route to host".to_owned()),
    };
    Peers { peers: vec![peer("desk", true), peer("phone", false)] }
}

fn members() -> Members {
    let member = |name: &str, role, me, invited_by: Option<&str>| Member {
        device: "ab".repeat(32),
        name: name.to_owned(),
        role,
        me,
        invited_by: invited_by.map(str::to_owned),
        revoked: false,
    };
    let members = vec![member("lap", Role::Admin, true, None), member("desk", Role::Read, false, Some("lap"))];
    Members { share: id(), members }
}

async fn list(talk: &mut Talk, many: bool) -> Result<Reply, Failure> {
    let entry = |path: &[u8], kind, conflict| Entry {
        path: PathText::from_bytes(path),
        kind,
        size: 1536,
        mode: 0o755,
        mtime_ms: 0,
        local: Local::Partly,
        conflict,
        pending: false,
        blake3: None,
    };
    if many {
        for _ in 0..200_000 {
            talk.send(Item::Entry(entry(b"a/file/of/many", EntryKind::File, false))).await?;
        }
        return Ok(Listed { entries: 200_000 }.into());
    }
    talk.send(Item::Entry(entry(b"dir", EntryKind::Dir, false))).await?;
    talk.send(Item::Entry(entry(b"\xff.txt", EntryKind::File, true))).await?;
    Ok(Listed { entries: 2 }.into())
}

async fn log(talk: &mut Talk) -> Result<Reply, Failure> {
    let event = Event {
        time_ms: 1_500,
        device: "desk".to_owned(),
        device_id: "ab".repeat(32),
        event: Action::Create,
        path: "a".into(),
        from: None,
        blake3: Some("cd".repeat(32)),
        size: Some(3),
        version: "ef".repeat(16),
    };
    talk.send(Item::Event(event)).await?;
    Ok(Logged { events: 1 }.into())
}

async fn verify(talk: &mut Talk, repair: bool) -> Result<Reply, Failure> {
    let message = "chunk 00aa is damaged: fetched again from other devices when they are there".to_owned();
    talk.send(Item::Finding(Finding { share: None, message, repaired: repair })).await?;
    let repaired = u64::from(repair);
    Ok(Checked { shares: 1, chunks: 2, bytes: 2048, changes: 3, findings: 1, repaired }.into())
}

/// Runs the program on a state directory, with nothing of this process' environment that it reads.
fn crdtfs(state_dir: &Path, args: &[&str]) -> Output {
    command(state_dir, args).output().unwrap()
}

fn command(state_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crdtfs"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CRDTFS_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.arg("--state-dir").arg(state_dir).args(args).env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Runs the program while the book answers on its state directory.
fn with_book(args: &[&str]) -> (i32, String, String) {
    with_book_and(args, |mut command| command.output().unwrap())
}

fn with_book_and(args: &[&str], run: impl FnOnce(Command) -> Output) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = runtime.block_on(async { Listener::bind(dir.path()).unwrap() });
    let serving = runtime.spawn(listener.serve(Arc::new(Book), async {
        drop(stopped.await);
    }));
    let output = run(command(dir.path(), args));
    drop(stop);
    runtime.block_on(serving).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn without_an_engine_commands_say_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["status"][..], &["invite", "."], &["peers"], &["ls", "."], &["check"], &["wait"], &["umount", "."]] {
        let output = crdtfs(dir.path(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("crdtfs: no engine runs on "), "{said}");
        assert!(said.contains("\n  hint: `crdtfs mount DIR`"), "{said}");
    }
    assert_eq!(crdtfs(dir.path(), &["stop"]).status.code(), Some(0), "there is nothing to stop");
}

#[test]
fn wrong_usage_is_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["fly"][..],
        &["mount"],
        &["mount", "a", "b", "c"],
        &["invite", ".", "--role", "king"],
        &["invite", ".", "--expires", "soon"],
        &["invite", ".", "--expires", "0s"],
        &["invite", ".", "--uses", "0"],
        &["wait", "--devices", "most"],
        &["--network", "mars", "status"],
        &["--name", "a/b", "status"],
        &["revoke", ".", "desk"],
    ] {
        let output = crdtfs(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn the_ticket_stands_alone_on_stdout() {
    let (code, out, said) = with_book(&["invite", "/d", "--expires", "1h"]);
    assert_eq!((code, out.as_str(), said.as_str()), (0, "crdtfs3600000\n", ""));
    let (_, json, _) = with_book(&["--json", "invite", "/d", "--role", "read", "--uses", "3"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["ticket"].as_str(), json["role"].as_str()), (Some("crdtfs86400000"), Some("read")));
    assert_eq!(json["uses"], 3);
}

#[test]
fn talk_goes_to_stderr() {
    let (code, out, said) = with_book(&["watch", "/d"]);
    assert_eq!((code, out.as_str()), (0, ""));
    insta::assert_snapshot!(said, @r"
    a new share, kept in sync with /d
    invite another device: crdtfs invite /d
    ");
    let (code, out, said) = with_book(&["mount", "/d/again"]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert_eq!(said, "the share is mounted at /d/again already, with --read-only --on-demand --cache 1536MiB\n");
    let (code, out, said) = with_book(&["mount", "/d/full"]);
    assert_eq!((code, out.as_str()), (1, ""));
    insta::assert_snapshot!(said, @r"
    crdtfs: the directory is not empty
      hint: use `watch`
    ");
}

#[test]
fn an_engine_on_another_network_is_not_used_unasked() {
    let (code, _, said) = with_book(&["--network", "internet", "watch", "/d"]);
    assert_eq!(code, 1);
    assert!(said.contains("runs with --network local") && said.contains("crdtfs stop"), "{said}");
    assert_eq!(with_book(&["--network", "local", "watch", "/d"]).0, 0);
}

#[test]
fn status_in_words() {
    let (code, out, _) = with_book(&["status"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(out);
}

#[test]
fn status_for_scripts() {
    let (_, out, _) = with_book(&["status", "/d", "--json"]);
    insta::assert_snapshot!(out);
}

#[test]
fn a_wait_that_ran_out_says_who_lacks_what() {
    let (code, out, said) = with_book(&["wait", "--timeout", "1500ms"]);
    assert_eq!((code, out.as_str()), (3, ""));
    insta::assert_snapshot!(said);
    let (code, out, _) = with_book(&["wait", "--json"]);
    assert_eq!(code, 3);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["devices"][0]["missing"]["bytes"], 10);
}

#[test]
fn peers_and_members_in_words() {
    insta::assert_snapshot!(with_book(&["peers"]).1 + &with_book(&["members", "/d"]).1);
}

#[test]
fn trees_and_histories_are_lines() {
    insta::assert_snapshot!(with_book(&["ls", "/d"]).1 + &with_book(&["log", "/d"]).1);
    let (_, json, _) = with_book(&["ls", "/d", "--json"]);
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1]["path_base64"], "/y50eHQ=");
    let (_, json, _) = with_book(&["log", "/d", "--json"]);
    let event: serde_json::Value = serde_json::from_str(json.trim_end()).unwrap();
    let fields = ["time", "device", "event", "path"].map(|field| event[field].as_str().unwrap().to_owned());
    assert_eq!(fields, ["1970-01-01T00:00:01.500Z", "desk", "create", "a"]);
}

#[test]
fn a_check_fails_for_what_was_not_mended() {
    let (code, out, said) = with_book(&["check"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("wrong: chunk 00aa"), "{out}");
    assert!(said.starts_with("1 wrong, 0 mended"), "{said}");
    let (code, out, _) = with_book(&["check", "--repair", "--json"]);
    assert_eq!(code, 0);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["findings"], &json["details"][0]["repaired"]), (&1.into(), &true.into()));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let (code, _, said) = with_book_and(&["ls", "--recursive", "/d"], |mut command| {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        child.wait_with_output().unwrap()
    });
    assert_eq!((code, said.as_str()), (0, ""));
}

#[test]
fn completions_and_manual_pages_are_made() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = crdtfs(dir.path(), &["completions", shell]);
        assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("unmount"), "{shell}");
    }
    let pages = dir.path().join("man");
    assert!(crdtfs(dir.path(), &["man", pages.to_str().unwrap()]).status.success());
    for page in ["crdtfs.1", "crdtfs-mount.1", "crdtfs-invite.1"] {
        assert!(std::fs::read_to_string(pages.join(page)).unwrap().contains("crdtfs"), "{page}");
    }
    assert!(!pages.join("crdtfs-engine.1").exists(), "not for users");
}
