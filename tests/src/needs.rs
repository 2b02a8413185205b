//! What a test needs of the machine.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Something that not every machine has.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Root: namespaces and mounts are made.
    Root,
    /// `/dev/fuse`.
    Fuse,
    /// Loop devices.
    Loop,
    /// A program on the path.
    Tool(&'static str),
}

/// What network namespaces take.
pub const LAB: &[Need] = &[Need::Root, Need::Tool("ip"), Need::Tool("nsenter"), Need::Tool("setpriv")];

/// The first thing that is missing, with what to do.
pub fn missing(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| match need {
        Need::Root if !rustix::process::geteuid().is_root() => {
            Some("it makes network namespaces: run it as root".into())
        }
        Need::Fuse if !Path::new("/dev/fuse").exists() => {
            Some("there is no /dev/fuse: load the kernel module fuse, in a container pass --device /dev/fuse".into())
        }
        Need::Loop if !Path::new("/dev/loop-control").exists() => {
            Some("there is no /dev/loop-control: load the kernel module loop".into())
        }
        Need::Tool(name) if !on_path(name) => Some(format!("there is no {name}: install it (`cargo xtask test` does)")),
        _ => None,
    })
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(name).is_file())
}

/// Says that a test is skipped: on stderr, and in the file `skipped-tests.txt` beside the binary, which `cargo xtask test`
/// shows at its end.
///
/// # Panics
/// With `CRDTFS_NO_SKIP`.
pub fn skip(test: &str, why: &str) {
    assert!(std::env::var_os("CRDTFS_NO_SKIP").is_none(), "{test} cannot run here: {why}");
    eprintln!("SKIPPED {test}: {why}");
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join("skipped-tests.txt")));
    if let Some(path) = beside
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        // Best effort: the line on stderr is the message.
        let _ = writeln!(file, "{test}: {why}");
    }
}

/// Ends the test with a visible note if something is missing: `needs!(Fuse, Tool("git"))`. A lab is always needed.
#[macro_export]
macro_rules! needs {
    ($test:literal $(, $need:expr)* $(,)?) => {{
        #[allow(unused_imports)]
        use $crate::needs::Need::*;
        let needs: Vec<$crate::needs::Need> = $crate::needs::LAB.iter().copied().chain([$($need),*]).collect();
        if let Some(why) = $crate::needs::missing(&needs) {
            $crate::needs::skip($test, &why);
            return;
        }
    }};
}
