//! Paths from the command line as the engine knows them: absolute, without links.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// The whole path without links, as far as it exists; what is beyond is taken as it is written. Never fails for what is
/// not there, nor for a dead mount, since `unmount` has to name those.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).with_context(|| format!("cannot tell where {} is", path.display()))?;
    let mut missing = Vec::new();
    let mut there = absolute.as_path();
    loop {
        if let Ok(real) = there.canonicalize() {
            return Ok(missing.iter().rev().fold(real, |path, name| step(path, *name)));
        }
        let Some(last) = there.components().next_back() else { return Ok(absolute) };
        missing.push(last);
        let Some(parent) = there.parent() else { return Ok(absolute) };
        there = parent;
    }
}

/// As [`resolve`], but a link at the very end is named, not followed.
pub(crate) fn resolve_entry(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).with_context(|| format!("cannot tell where {} is", path.display()))?;
    match (absolute.parent(), absolute.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => Ok(resolve(parent)?.join(name)),
        _ => resolve(&absolute),
    }
}

fn step(mut path: PathBuf, component: Component<'_>) -> PathBuf {
    match component {
        Component::ParentDir => {
            path.pop();
        }
        Component::CurDir => {}
        other => path.push(other),
    }
    path
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_but_for_a_last_one_that_is_meant() {
        let dir = tempfile::tempdir().expect("makes");
        let root = dir.path().canonicalize().expect("is there");
        std::fs::create_dir(root.join("real")).expect("makes");
        symlink("real", root.join("link")).expect("links");
        symlink("nowhere", root.join("real/dangling")).expect("links");
        assert_eq!(resolve(&root.join("link")).expect("resolves"), root.join("real"));
        assert_eq!(resolve(&root.join("link/a/../b")).expect("resolves"), root.join("real/b"));
        assert_eq!(resolve_entry(&root.join("link/dangling")).expect("resolves"), root.join("real/dangling"));
        assert_eq!(resolve_entry(&root.join("link")).expect("resolves"), root.join("link"));
        assert_eq!(resolve_entry(&root.join("link/.")).expect("resolves"), root.join("link"));
    }
}
