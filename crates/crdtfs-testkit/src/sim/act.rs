//! What users and their programs do: one action of a step as operations at a shell.

use crdtfs_core::node::Kind;
use crdtfs_core::op::{OpError, RenameMode};

use super::world::World;
use super::{Action, Step};

const NAMES: [&str; 4] = ["a", "b", "c.txt", "d"];

/// What a device shows, and what a step chooses of it.
struct Choice {
    file: Option<String>,
    other_file: Option<String>,
    any: Option<String>,
    other: Option<String>,
    dir: String,
    name: &'static str,
}

impl Choice {
    fn file(&self) -> Result<String, OpError> {
        self.file.clone().ok_or(OpError::NotFound)
    }

    fn any(&self) -> Result<String, OpError> {
        self.any.clone().ok_or(OpError::NotFound)
    }

    fn other(&self) -> Result<String, OpError> {
        self.other.clone().ok_or(OpError::NotFound)
    }

    /// The chosen name in the chosen directory.
    fn path(&self) -> String {
        join(&self.dir, self.name)
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_string() } else { format!("{dir}/{name}") }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl World {
    fn choose(&self, step: &Step) -> Choice {
        let [a, b, c] = step.picks;
        let walk = self.sites[step.device].device.walk();
        let pick = |kind: Option<Kind>, n: u32| -> Option<String> {
            let fits: Vec<_> = walk.iter().filter(|(_, node)| kind.is_none_or(|kind| node.kind == kind)).collect();
            (!fits.is_empty()).then(|| fits[n as usize % fits.len()].0.clone())
        };
        let dirs = walk.iter().filter(|(_, node)| node.kind == Kind::Dir).map(|(path, _)| path.as_str());
        let dirs: Vec<&str> = std::iter::once("").chain(dirs).collect();
        Choice {
            file: pick(Some(Kind::File), a),
            other_file: pick(Some(Kind::File), b),
            any: pick(None, a),
            other: pick(None, b),
            dir: dirs[b as usize % dirs.len()].to_string(),
            name: NAMES[c as usize % NAMES.len()],
        }
    }

    /// Does an action of a user.
    pub(super) fn act(&mut self, step: &Step) -> Result<(), OpError> {
        let chosen = self.choose(step);
        match step.action {
            Action::Create | Action::CreateSame | Action::CreateLong | Action::Mkdir | Action::Extract => {
                self.create(step, &chosen)
            }
            Action::Append | Action::Rewrite | Action::Binary | Action::Truncate | Action::Open | Action::Close => {
                self.write(step, &chosen)
            }
            Action::RenameInPlace | Action::Move | Action::MoveOver | Action::Exchange | Action::Swap => {
                self.rename(step, &chosen)
            }
            Action::SaveByRename
            | Action::SaveAside
            | Action::SaveBackup
            | Action::SaveAnew
            | Action::SaveByRemoval => self.save(step, &chosen.file()?),
            Action::Tend => self.tend(step, &chosen),
            Action::LinkInto | Action::Lock | Action::Burst => self.tool(step, &chosen),
            _ => self.attend(step, &chosen),
        }
    }

    fn fresh_text(&mut self) -> String {
        format!("{}\nl2\nl3\nl4\nl5\n", self.token())
    }

    fn create(&mut self, step: &Step, chosen: &Choice) -> Result<(), OpError> {
        let text = self.fresh_text();
        let device = &mut self.sites[step.device].device;
        let path = chosen.path();
        match step.action {
            Action::Create => device.write_new(&path, text)?,
            Action::CreateSame => device.write_new(&path, "the same\n")?,
            Action::CreateLong => device.write_new(&join(&chosen.dir, &chosen.name[..1].repeat(255)), text)?,
            Action::Mkdir => device.mkdir(&path)?,
            _ => {
                device.mkdir(&path)?;
                device.write_new(&join(&path, "a"), text)?;
                device.mkdir(&join(&path, "d"))?;
                let text = self.fresh_text();
                self.sites[step.device].device.write_new(&join(&path, "d/b"), text)?
            }
        };
        Ok(())
    }

    fn write(&mut self, step: &Step, chosen: &Choice) -> Result<(), OpError> {
        let token = self.token();
        let site = &mut self.sites[step.device];
        match step.action {
            Action::Open => {
                let file = chosen.file()?;
                let node = site.device.find(&file).ok_or(OpError::NotFound)?;
                let text = site.device.read(&file).ok_or(OpError::NotFound)?;
                site.open = Some((node.inode, node.basis, text));
            }
            Action::Close => {
                let (inode, basis, old) = site.open.clone().ok_or(OpError::NotFound)?;
                let new = changed(&old, &token, step);
                let closed = site.device.close_write(inode, new.as_bytes(), basis);
                if closed.is_err() {
                    site.open = None;
                }
                closed?;
            }
            _ => {
                let file = chosen.file()?;
                let mut old = site.device.read(&file).ok_or(OpError::NotFound)?;
                if step.action == Action::Truncate {
                    // Two who write on what one of them cut both append to nothing: what was there before stays out.
                    site.device.write(&file, "")?;
                    old.clear();
                }
                site.device.write(&file, changed(&old, &token, step))?;
            }
        }
        Ok(())
    }

    fn rename(&mut self, step: &Step, chosen: &Choice) -> Result<(), OpError> {
        let device = &mut self.sites[step.device].device;
        let any = chosen.any()?;
        match step.action {
            Action::RenameInPlace => {
                device.rename(&any, &join(parent(&any), chosen.name), RenameMode::NoReplace)?;
            }
            Action::Move => {
                device.rename(&any, &join(&chosen.dir, base(&any)), RenameMode::NoReplace)?;
            }
            Action::MoveOver => {
                device.mv(&any, &chosen.other()?)?;
            }
            Action::Exchange => {
                device.rename(&any, &chosen.other()?, RenameMode::Exchange)?;
            }
            _ => {
                let (x, y) = (chosen.file()?, chosen.other_file.clone().ok_or(OpError::NotFound)?);
                let aside = join(parent(&x), "swap");
                device.rename(&x, &aside, RenameMode::NoReplace)?;
                device.rename(&y, &x, RenameMode::NoReplace)?;
                device.rename(&aside, &y, RenameMode::NoReplace)?;
            }
        }
        Ok(())
    }

    fn attend(&mut self, step: &Step, chosen: &Choice) -> Result<(), OpError> {
        let [a, b, c] = step.picks;
        let device = &mut self.sites[step.device].device;
        match step.action {
            Action::Unlink => device.unlink(&chosen.file()?)?,
            Action::RemoveTree => device.rm_r(&chosen.any()?)?,
            Action::Link => device.link(&chosen.file()?, &chosen.path())?,
            Action::Chmod if c.is_multiple_of(2) => device.chmod(&chosen.file()?, 0o600 + b % 8)?,
            Action::Chmod => device.chmod(&chosen.any()?, 0o600 + b % 8)?,
            Action::Symlink => device.symlink(["x", "y"][a as usize % 2], &chosen.path())?,
            _ => {
                device.now_ms += 3_600_000;
                0
            }
        };
        Ok(())
    }

    /// Works on a conflict copy or on who has its name.
    fn tend(&mut self, step: &Step, chosen: &Choice) -> Result<(), OpError> {
        let [a, b, c] = step.picks;
        let token = self.token();
        let device = &mut self.sites[step.device].device;
        let conflicts = device.view.conflicts();
        let conflict = conflicts.get(a as usize % conflicts.len().max(1)).ok_or(OpError::NotFound)?;
        let inode = conflict.holder.filter(|_| b.is_multiple_of(2)).unwrap_or(conflict.inode);
        let walk = device.walk();
        let path = walk.into_iter().find(|(_, node)| node.inode == inode).ok_or(OpError::NotFound)?.0;
        match c % 8 {
            0..3 => device.chmod(&path, 0o700 + b % 8)?,
            3 => device.rm_r(&path)?,
            4 => device.rename(&path, &join(parent(&path), &format!("{}2", chosen.name)), RenameMode::NoReplace)?,
            5 => device.rename(&path, &join(&chosen.dir, base(&path)), RenameMode::NoReplace)?,
            _ => {
                let old = device.read(&path).ok_or(OpError::NotFound)?;
                device.write(&path, changed(&old, &token, step))?
            }
        };
        Ok(())
    }

    /// Saves a file as editors do.
    fn save(&mut self, step: &Step, file: &str) -> Result<(), OpError> {
        let token = self.token();
        let device = &mut self.sites[step.device].device;
        let old = device.read(file).ok_or(OpError::NotFound)?;
        let new = changed(&old, &token, step);
        let (temp, backup) = (format!("{file}.tmp"), format!("{file}~"));
        match step.action {
            Action::SaveByRename => {
                device.write_new(&temp, new)?;
                if step.picks[2].is_multiple_of(4) {
                    device.chmod(&temp, 0o600)?;
                }
                device.mv(&temp, file)?;
            }
            Action::SaveAside => {
                device.rename(file, &backup, RenameMode::NoReplace)?;
                device.write_new(file, new)?;
                device.unlink(&backup)?;
            }
            Action::SaveBackup => {
                device.mv(file, &backup)?;
                device.write_new(file, new)?;
            }
            Action::SaveAnew => {
                device.unlink(file)?;
                device.write_new(file, "")?;
                device.write(file, new)?;
            }
            _ => {
                device.write_new(&temp, new)?;
                device.unlink(file)?;
                device.rename(&temp, file, RenameMode::NoReplace)?;
            }
        }
        Ok(())
    }

    /// What programs do that keep several files.
    fn tool(&mut self, step: &Step, chosen: &Choice) -> Result<(), OpError> {
        let at = step.device;
        match step.action {
            Action::Lock => {
                let lock = join(&chosen.dir, ".#lock");
                self.sites[at].device.symlink("me@here", &lock)?;
                self.sites[at].device.unlink(&lock)?;
            }
            Action::LinkInto => self.link_into(at, &chosen.dir, &chosen.path())?,
            _ => {
                for name in &NAMES[..2] {
                    let path = join(&chosen.dir, &format!("obj-{name}{}", step.picks[2] % 3));
                    match self.link_into(at, &chosen.dir, &path) {
                        Ok(()) | Err(OpError::Exists) => {}
                        Err(error) => return Err(error),
                    }
                }
                let (lock, index) = (join(&chosen.dir, "index.lock"), join(&chosen.dir, "index"));
                let text = self.fresh_text();
                self.sites[at].device.write_new(&lock, text)?;
                self.sites[at].device.mv(&lock, &index)?;
            }
        }
        Ok(())
    }

    fn link_into(&mut self, at: usize, dir: &str, path: &str) -> Result<(), OpError> {
        let text = self.fresh_text();
        let device = &mut self.sites[at].device;
        let temp = join(dir, "tmp_obj");
        device.write_new(&temp, text)?;
        let linked = device.link(&temp, path);
        device.unlink(&temp)?;
        linked.map(drop)
    }
}

/// A text with a token put in, as the step's picks say.
fn changed(old: &str, token: &str, step: &Step) -> String {
    match step.action {
        Action::Append => format!("{old}{token}\n"),
        Action::Binary => format!("\0{token}\n"),
        _ => {
            let mut lines: Vec<_> = old.lines().map(str::to_string).collect();
            if lines.is_empty() {
                return format!("{token}\n");
            }
            let at = step.picks[1] as usize % lines.len();
            lines[at] = format!("{} {token}", lines[at]);
            lines.join("\n") + "\n"
        }
    }
}
