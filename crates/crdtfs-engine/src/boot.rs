//! Which time the machine has been up: what a process wrote before it was killed is all there while the machine stays up, and not
//! always after it went down.

use std::fs;

/// Where Linux tells it (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's name for the time since the machine went up; `None` where nobody knows, and every start counts as another time.
pub fn id() -> Option<String> {
    let id = fs::read_to_string(BOOT_ID).ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_one_as_long_as_the_machine_is_up() {
        let id = super::id();
        assert!(id.as_ref().is_none_or(|id| id.len() == 36), "{id:?}");
        assert_eq!(id, super::id());
    }
}
