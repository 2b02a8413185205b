//! Mounts a share that lives in memory only, for measuring and for trying things out: `memory DIR`, until it is unmounted
//! or its standard input ends.

use std::io::Read;
use std::path::Path;

use crdtfs_core::id::ShareId;
use crdtfs_core::port::Adapter;
use crdtfs_engine::present::{OwnerPolicy, PresentOptions, Presenter, SharePorts};
use crdtfs_mount::MountPresenter;
use crdtfs_testkit::MemoryShare;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: memory DIR")?;
    let dir = Path::new(&dir);
    let share = MemoryShare::new("memory", 1);
    let options =
        PresentOptions { read_only: false, allow_other: false, owner: OwnerPolicy::Keep, ..Default::default() };
    let presenter = MountPresenter::new();
    presenter.prepare(dir, &options, false)?;
    let state = std::env::temp_dir();
    let ports = SharePorts {
        share: ShareId([1; 32]),
        adapter: Adapter(1),
        tree: share.clone(),
        content: share,
        device_name: "memory".into(),
        state,
        asked: true,
        progressed: std::sync::Arc::new(|| {}),
    };
    let presented = presenter.present(ports, dir, &options)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    presented.stop()?;
    Ok(())
}
