//! How shares begin here: made anew, or joined with a ticket; and the tickets themselves.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crdtfs_control::reply::Invited;
use crdtfs_control::{Failure, FailureKind, Reply, request};
use crdtfs_core::id::ShareId;
use crdtfs_core::key::Key;
use crdtfs_core::membership;
use crdtfs_core::share::{Genesis, Parameters};
use crdtfs_core::ticket::Ticket;
use crdtfs_net::{JoinError, JoinRequest};
use rand::RngCore;

use crate::convert;
use crate::core::Core;
use crate::registry::{ShareDir, ShownDir};
use crate::share::{Share, now_ms};
use crate::shows::blocking;

/// How long a joiner tries to reach the inviter.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);

/// What a ticket is good for here.
pub(crate) enum Use {
    /// To join its share.
    Join(Box<Ticket>),
    /// Its share is here, and nothing ever showed it: only that is left to do.
    Show(Arc<Share>),
}

impl Core {
    /// A new share with this device as its only member, which is to be shown there.
    pub(crate) fn create_share(self: &Arc<Self>, shown: Option<&ShownDir>) -> Result<Arc<Share>, Failure> {
        let mut nonce = [0; 32];
        rand::rng().fill_bytes(&mut nonce);
        let genesis = Genesis { creator: self.device, nonce, parameters: Parameters::default() };
        let key = Key::new(self.state().key());
        let (_, record) = membership::Membership::create(&genesis, &key, &self.config.name, now_ms())
            .map_err(|error| Failure::failed(format!("cannot make a share: {error}")))?;
        self.found(&genesis.share(), &genesis.encode(), &[record], shown)
    }

    /// Takes a share back that was made for nothing: nobody joined it and nothing is in it. True if that is so.
    pub(crate) fn discard(&self, share: &Share) -> bool {
        if share.members().len() > 1 || !share.log().is_empty() || share.read(|replica| replica.queued()) > 0 {
            return false;
        }
        self.close_share(share);
        if let Err(error) = share.dir().remove() {
            tracing::warn!(share = %share.id(), %error, "a share that was made for nothing stays");
        }
        true
    }

    /// Joins the share of a ticket, which is to be shown there.
    pub(crate) async fn join(self: &Arc<Self>, ticket: &Ticket, shown: ShownDir) -> Result<Arc<Share>, Failure> {
        let claim = membership::claim(&ticket.key, &ticket.share, &ticket.invitation, &self.device);
        let request = JoinRequest {
            inviter: ticket.inviter,
            addresses: ticket.addrs.clone(),
            relays: ticket.relays.clone(),
            share: ticket.share,
            invitation: ticket.invitation,
            claim,
            name: self.config.name.clone(),
            patience: JOIN_PATIENCE,
        };
        let welcome = self.node().join(request).await.map_err(|error| join_failure(&error))?;
        let (core, share, addresses) = (self.clone(), ticket.share, ticket.addrs.clone());
        let inviter = ticket.inviter;
        blocking(move || {
            let joined = core.found(&share, &welcome.genesis, &welcome.membership, Some(&shown))?;
            joined.note_connected(&inviter, &addresses);
            core.node().remember(inviter, &addresses);
            Ok(joined)
        })
        .await
    }

    /// Writes down what a share begins with and lets it run.
    fn found(
        self: &Arc<Self>,
        id: &ShareId,
        genesis: &[u8],
        membership: &[Vec<u8>],
        shown: Option<&ShownDir>,
    ) -> Result<Arc<Share>, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
        let dir = ShareDir::create(&self.state().shares(), id).map_err(|e| failed(&e))?;
        // The genesis last: with it the share is there, and an engine that was killed meanwhile leaves none that nothing shows.
        dir.write_membership(membership).map_err(|e| failed(&e))?;
        if let Some(shown) = shown {
            dir.write_shown(std::slice::from_ref(shown)).map_err(|e| failed(&e))?;
        }
        dir.write_genesis(genesis).map_err(|e| failed(&e))?;
        let share = self.open_share(*id, dir).map_err(|e| failed(&e))?;
        self.introduce(&share);
        Ok(share)
    }

    /// A ticket for the share that a path lies in.
    pub(crate) fn invite(&self, asked: &request::Invite) -> Result<Reply, Failure> {
        let share = self.find(&asked.dir.to_path())?.share;
        if asked.uses == 0 {
            return Err(Failure::new(FailureKind::Usage, "a ticket has at least one use"));
        }
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let key = Key::new(&secret);
        let role = convert::role_in(asked.role);
        let expires_ms = now_ms().saturating_add(i64::try_from(asked.expires_ms).unwrap_or(i64::MAX));
        let invitation = share.invite(key.id(), role, asked.uses, expires_ms)?;
        let ticket = Ticket {
            share: share.id(),
            inviter: self.device,
            addrs: self.node().addrs(),
            relays: self.node().relays(),
            key,
            invitation,
            role,
            expires_ms,
        };
        Ok(Reply::Invited(Invited {
            ticket: ticket.to_string(),
            share: share.id().to_string(),
            role: asked.role,
            expires_ms,
            uses: asked.uses,
        }))
    }

    /// Reads a ticket for a share that is not here yet, or not shown.
    pub(crate) fn read_ticket(&self, text: &str) -> Result<Use, Failure> {
        let ticket = Ticket::from_str(text.trim())
            .map_err(|error| Failure::new(FailureKind::Ticket, format!("this ticket cannot be used: {error}")))?;
        let Some(share) = self.share(&ticket.share) else { return Ok(Use::Join(Box::new(ticket))) };
        let shown = share.dir().shown().map_err(|error| Failure::failed(error.to_string()))?;
        let Some(shown) = shown.first() else { return Ok(Use::Show(share)) };
        let hint = format!(
            "it is shown at {dir}: `crdtfs {word} {dir}` shows it there again",
            dir = shown.dir.display(),
            word = convert::mode_word(shown.mode)
        );
        Err(Failure::new(FailureKind::Ticket, "this ticket is for a share that this device has already")
            .with_hint(hint))
    }
}

fn join_failure(error: &JoinError) -> Failure {
    let kind = match error {
        JoinError::Refused(_) => FailureKind::Ticket,
        JoinError::Unreachable { .. } => FailureKind::Timeout,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, error.to_string())
}

/// Socket addresses as they are kept, and back; what is no address is passed over.
pub(crate) fn parse_addresses(kept: &[String]) -> Vec<SocketAddr> {
    kept.iter().filter_map(|address| address.parse().ok()).collect()
}
