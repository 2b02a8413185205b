//! Types of the control protocol from and to those of the other layers, by hand, so that neither leaks.

use crdtfs_control::{reply, request, status};
use crdtfs_core::node::{Kind, Time};
use crdtfs_core::share::Role;
use crdtfs_net::PathKind;

use crate::present::{Mode, OwnerPolicy, PresentOptions};

pub(crate) fn mode_in(mode: request::Mode) -> Mode {
    match mode {
        request::Mode::Mount => Mode::Mount,
        request::Mode::Watch => Mode::Watch,
    }
}

pub(crate) fn mode_out(mode: Mode) -> request::Mode {
    match mode {
        Mode::Mount => request::Mode::Mount,
        Mode::Watch => request::Mode::Watch,
    }
}

/// The command that shows a share in this way.
pub(crate) fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Mount => "mount",
        Mode::Watch => "watch",
    }
}

pub(crate) fn options_in(options: &request::ShowOptions) -> PresentOptions {
    PresentOptions {
        read_only: options.read_only,
        allow_other: options.allow_other,
        owner: match options.owner {
            request::Owner::Mounter => OwnerPolicy::Mounter,
            request::Owner::Keep => OwnerPolicy::Keep,
            request::Owner::Fixed { uid, gid } => OwnerPolicy::Fixed { uid, gid },
        },
        on_demand: options.on_demand,
        cache: options.cache,
    }
}

pub(crate) fn options_out(options: &PresentOptions) -> request::ShowOptions {
    request::ShowOptions {
        read_only: options.read_only,
        allow_other: options.allow_other,
        owner: match options.owner {
            OwnerPolicy::Mounter => request::Owner::Mounter,
            OwnerPolicy::Keep => request::Owner::Keep,
            OwnerPolicy::Fixed { uid, gid } => request::Owner::Fixed { uid, gid },
        },
        on_demand: options.on_demand,
        cache: options.cache,
    }
}

pub(crate) fn role_in(role: request::Role) -> Role {
    match role {
        request::Role::Read => Role::Read,
        request::Role::Write => Role::Write,
        request::Role::Admin => Role::Admin,
    }
}

pub(crate) fn role_out(role: Role) -> request::Role {
    match role {
        Role::Read => request::Role::Read,
        Role::Write => request::Role::Write,
        Role::Admin => request::Role::Admin,
    }
}

pub(crate) fn route_out(path: PathKind) -> Option<status::Route> {
    match path {
        PathKind::None => None,
        PathKind::Direct => Some(status::Route::Direct),
        PathKind::Relayed => Some(status::Route::Relayed),
    }
}

pub(crate) fn kind_out(kind: Kind) -> reply::EntryKind {
    match kind {
        Kind::File => reply::EntryKind::File,
        Kind::Dir => reply::EntryKind::Dir,
        Kind::Symlink => reply::EntryKind::Symlink,
        Kind::Fifo => reply::EntryKind::Fifo,
        Kind::Socket => reply::EntryKind::Socket,
        Kind::CharDevice | Kind::BlockDevice => reply::EntryKind::Device,
    }
}

/// Milliseconds since the Unix epoch, as far as they fit.
pub(crate) fn time_out(time: Time) -> i64 {
    time.secs.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000))
}
