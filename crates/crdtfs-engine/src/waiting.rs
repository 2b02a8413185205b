//! `crdtfs wait`: until this device and others hold the same heads and the content that they want.
//!
//! It is judged on what the others say that they hold, never on what was sent to them: what a connected one answers to a
//! probe of this wait ([`crate::probes`]), and what any other last said to anybody ([`crate::statements`]), after it was
//! called and did not come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_control::reply::{Lacking, Note, Progress, Unit, Waited};
use crdtfs_control::request::{Wait, WaitFor};
use crdtfs_control::status::Missing;
use crdtfs_control::{Failure, Item, PathText, Reply, Talk};
use crdtfs_core::id::DeviceId;
use tokio::task::JoinSet;

use crate::core::Core;
use crate::probes::Probing;
use crate::share::Share;
use crate::shows::blocking;

/// Paths that a timed-out wait names for each device.
const PATHS: usize = 5;

/// Who has not answered is probed again this often: it may have failed at what was asked.
const AGAIN: Duration = Duration::from_secs(10);

/// How long others wait until what came from them can be seen here.
const SEEN: Duration = Duration::from_secs(1);

/// What takes no time is waited for at the end of a wait, too.
const MOMENT: Duration = Duration::from_millis(200);

impl Core {
    pub(crate) async fn wait(self: &Arc<Self>, asked: Wait, talk: &mut Talk) -> Result<Reply, Failure> {
        let deadline = Instant::now() + Duration::from_millis(asked.timeout_ms);
        let (core, dir) = (self.clone(), asked.dir.clone());
        let shares = blocking(move || core.shares_of(dir.as_ref())).await?;
        let mut settled = self.settle_now(&shares, deadline).await?;
        // After what was done here went out: the answers speak of that, too.
        let probes: Vec<Probing> = shares.iter().map(|share| share.probe_members(deadline)).collect();
        let mut calls = self.call_members(&probes);
        for share in &shares {
            if let Some(message) = too_few(&self.lacking(share), asked.devices) {
                talk.send(Item::Note(Note { message })).await?;
            }
        }
        let mut progress = self.progress();
        let mut most = 0;
        let mut again = Instant::now() + AGAIN;
        loop {
            progress.mark_unchanged();
            let devices: Vec<Vec<Lacking>> =
                probes.iter().map(|probe| self.lacking_by(probe.share(), Some(probe))).collect();
            let held = settled && devices.iter().all(|devices| is_done(devices, asked.devices));
            let done = held && self.is_seen(&shares, deadline).await?;
            if done || Instant::now() >= deadline {
                if !done {
                    self.say_problems(&shares, held, talk).await?;
                }
                let devices = devices.into_iter().flatten().collect();
                return Ok(Reply::Waited(Waited { done, devices }));
            }
            let missing = devices.iter().flatten().map(|device| device.missing.bytes).sum::<u64>();
            most = missing.max(most);
            talk.offer(Item::Progress(Progress {
                what: "waiting".into(),
                done: most - missing,
                total: Some(most),
                unit: Unit::Bytes,
            }));
            let calls_end = probes.iter().map(Probing::calls_end).filter(|end| *end > Instant::now()).min();
            let next = calls_end.unwrap_or(deadline).min(again).min(deadline);
            tokio::select! {
                // The sender lives as long as the engine.
                _ = progress.changed() => {}
                Some(called) = calls.join_next(), if !calls.is_empty() => {
                    if let Ok((at, device, false)) = called {
                        probes[at].is_away(device);
                    }
                }
                () = tokio::time::sleep_until(next.into()) => {}
                () = talk.closed() => return Err(Failure::failed("the wait was given up")),
            }
            if Instant::now() >= again {
                if !settled {
                    settled = self.settle_now(&shares, deadline).await?;
                }
                let silent = |devices: &Vec<Lacking>| devices.iter().any(|device| device.unanswered_ms.is_some());
                probes.iter().zip(&devices).filter(|(_, d)| silent(d)).for_each(|(probe, _)| probe.again());
                again = Instant::now() + AGAIN;
            }
        }
    }

    /// Waits until all that came can be seen where the shares are shown.
    async fn is_seen(self: &Arc<Self>, shares: &[Arc<Share>], deadline: Instant) -> Result<bool, Failure> {
        // Also what is here only as the wait ends: members that are away count from when they could have come.
        let deadline = deadline.max(Instant::now() + MOMENT);
        let showings: Vec<_> = shares.iter().flat_map(|share| self.showings_of(&share.id())).collect();
        blocking(move || Ok(showings.iter().all(|showing| showing.is_seen(deadline)))).await
    }

    /// Dials the members that are not connected: where in `probes`, who, and whether it is connected then.
    fn call_members(&self, probes: &[Probing]) -> JoinSet<(usize, DeviceId, bool)> {
        let mut calls = JoinSet::new();
        for (at, probe) in probes.iter().enumerate() {
            let share = probe.share();
            let connected = self.connected(&share.id());
            let others = share.member_devices().into_iter().filter(|device| *device != share.device());
            for device in others.filter(|device| !connected.contains(device)) {
                let node = self.node().clone();
                calls.spawn(async move { (at, device, node.call(device).await) });
            }
        }
        calls
    }

    async fn settle_now(self: &Arc<Self>, shares: &[Arc<Share>], deadline: Instant) -> Result<bool, Failure> {
        let (core, shares) = (self.clone(), shares.to_vec());
        blocking(move || Ok(core.settle(&shares, deadline))).await
    }

    /// What stands in the way in the directories of these shares, as far as it is known; `held` if all is here.
    async fn say_problems(&self, shares: &[Arc<Share>], held: bool, talk: &mut Talk) -> Result<(), Failure> {
        if held {
            let message = "all is here, but a program holds up what the mount's cache has to forget".to_owned();
            talk.send(Item::Note(Note { message })).await?;
        }
        let problems: Vec<_> = shares.iter().flat_map(|share| self.shown_problems(share)).take(PATHS).collect();
        for problem in problems {
            let path = problem.path.map_or_else(String::new, |path| format!("{path}: "));
            talk.send(Item::Note(Note { message: format!("{path}{}", problem.message) })).await?;
        }
        Ok(())
    }

    /// What the user did so far is in the log of each share, and what is in the view is shown; false if not by then.
    pub(crate) fn settle(&self, shares: &[Arc<Share>], deadline: Instant) -> bool {
        let mut settled = true;
        for share in shares {
            for showing in self.showings_of(&share.id()) {
                settled &= showing.settle(deadline);
            }
            settled &= share.commit_all();
            self.showing_progressed(&share.id());
        }
        // What vanished did not settle; why is said.
        self.notice_ends();
        settled
    }

    /// The same for somebody else's `wait`, which wants to know nothing of what caches have here: that is seen to as far as it
    /// takes no time to speak of.
    pub(crate) fn settle_for_others(&self, share: Arc<Share>, deadline: Instant) -> bool {
        let settled = self.settle(std::slice::from_ref(&share), deadline);
        let seen = deadline.min(Instant::now() + SEEN);
        for showing in self.showings_of(&share.id()) {
            showing.is_seen(seen);
        }
        settled
    }

    /// What every member of a share lacks, this device first.
    pub(crate) fn lacking(&self, share: &Share) -> Vec<Lacking> {
        self.lacking_by(share, None)
    }

    /// The same, and who has not answered the probe.
    fn lacking_by(&self, share: &Share, probe: Option<&Probing>) -> Vec<Lacking> {
        let own_vector = share.vector();
        let own_holding = share.holding();
        let connected = self.connected(&share.id());
        let dir = self.dir_of(share);
        let mut devices: Vec<Lacking> = share
            .members()
            .into_iter()
            .filter(|member| !member.revoked)
            .map(|member| {
                let me = member.device == share.device();
                let connected = me || connected.contains(&member.device);
                let state = share.peer_state(&member.device).filter(|_| connected && !me);
                let unanswered = probe.filter(|_| !me).and_then(|probe| match &state {
                    Some(state) => probe.unanswered(state),
                    None => probe.called(&member.device).filter(|_| !connected),
                });
                let (same_heads, missing) = if me {
                    (true, (own_holding.missing_files, own_holding.missing_bytes))
                } else {
                    let held = share.held_by(&member.device, connected, &own_vector);
                    held.map_or((false, (0, 0)), |held| (held.same_heads, (held.missing_files, held.missing_bytes)))
                };
                Lacking {
                    share: share.id().to_string(),
                    dir: Some(dir.clone()).filter(|dir| !dir.as_str().is_empty()),
                    device: member.device.to_string(),
                    name: member.name,
                    me,
                    connected,
                    same_heads,
                    unanswered_ms: unanswered.map(|since| since.elapsed().as_millis() as u64),
                    missing: Missing { files: missing.0, bytes: missing.1 },
                    paths: if me { share.missing_paths(PATHS) } else { Vec::<PathText>::new() },
                }
            })
            .collect();
        devices.sort_by_key(|device| !device.me);
        devices
    }
}

/// That so many members as are waited for are not there at all, if that is so.
fn too_few(devices: &[Lacking], wanted: WaitFor) -> Option<String> {
    let WaitFor::Count(count) = wanted else { return None };
    let others = devices.iter().filter(|device| !device.me).count();
    let dir = devices.iter().find_map(|device| device.dir.as_ref());
    let share = dir.map_or_else(|| "a share".to_owned(), |dir| format!("the share of {dir}"));
    let members = if others == 1 { "1 other member".to_owned() } else { format!("{others} other members") };
    (others < count as usize).then(|| format!("{share} has {members}, and {count} are waited for: more have to join"))
}

/// Whether enough of these devices, this one among them, hold what they want.
fn is_done(devices: &[Lacking], wanted: WaitFor) -> bool {
    let holds = |device: &&Lacking| device.unanswered_ms.is_none() && device.same_heads && device.missing.files == 0;
    let others = || devices.iter().filter(|device| !device.me);
    if !devices.iter().filter(|device| device.me).all(|me| holds(&me)) {
        return false;
    }
    match wanted {
        WaitFor::All => others().all(|device| holds(&device)),
        WaitFor::Connected => {
            let mut connected = others().filter(|device| device.connected).peekable();
            connected.peek().is_some() && connected.all(|device| holds(&device))
        }
        WaitFor::Count(count) => others().filter(|device| holds(device)).count() >= count as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(me: bool, connected: bool, same_heads: bool, files: u64) -> Lacking {
        Lacking {
            share: String::new(),
            dir: None,
            device: String::new(),
            name: String::new(),
            me,
            connected,
            same_heads,
            unanswered_ms: None,
            missing: Missing { files, bytes: files },
            paths: Vec::new(),
        }
    }

    #[test]
    fn who_is_waited_for() {
        let me = device(true, true, true, 0);
        let synced = device(false, true, true, 0);
        let behind = device(false, true, false, 0);
        let lacking = device(false, true, true, 1);
        let away = device(false, false, true, 0);
        let away_and_behind = device(false, false, false, 0);
        let silent = Lacking { unanswered_ms: Some(0), ..synced.clone() };
        for (devices, all, connected, one) in [
            (vec![me.clone()], true, false, false),
            (vec![me.clone(), synced.clone()], true, true, true),
            (vec![me.clone(), behind], false, false, false),
            (vec![me.clone(), lacking], false, false, false),
            (vec![me.clone(), silent.clone()], false, false, false),
            (vec![me.clone(), synced.clone(), silent], false, false, true),
            (vec![me.clone(), synced.clone(), away.clone()], true, true, true),
            (vec![me.clone(), away], true, false, true),
            (vec![me, away_and_behind, synced.clone()], false, true, true),
            (vec![device(true, true, true, 2), synced], false, false, false),
        ] {
            assert_eq!(is_done(&devices, WaitFor::All), all, "{devices:?}");
            assert_eq!(is_done(&devices, WaitFor::Connected), connected, "{devices:?}");
            assert_eq!(is_done(&devices, WaitFor::Count(1)), one, "{devices:?}");
        }
    }
}
