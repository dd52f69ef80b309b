//! Which process holds something, and whether it still lives, also after its pid was given to another.

use std::fs;

/// This process: boot, pid and start time.
pub(crate) fn this_process() -> String {
    let pid = std::process::id();
    format!("{}:{pid}:{}", boot_id(), start_time(pid).unwrap_or_default())
}

/// Whether the process that wrote `holder` is gone for sure. A holder of another machine is never gone by this test;
/// its lease decides.
pub(crate) fn is_gone(holder: &str) -> bool {
    let mut parts = holder.split(':');
    if holder == "gone" {
        return true; // Given back by a process that could not finish it.
    }
    let (Some(boot), Some(pid), Some(start)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    if boot != boot_id() {
        // The same machine after a restart has another boot id: so has another machine.
        return fs::metadata("/proc/sys/kernel/random/boot_id").is_ok();
    }
    let Ok(pid) = pid.parse::<u32>() else { return false };
    start_time(pid).is_none_or(|now| now != start)
}

/// The pid in a holder, for messages.
pub(crate) fn pid(holder: &str) -> &str {
    holder.split(':').nth(1).unwrap_or("?")
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot; `None` when there is no such process or it is a zombie.
///
/// Source: proc(5). The second field is in parentheses and may hold spaces, so counting starts behind the last one.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let state = *fields.first()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.get(19).map(|start| (*start).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dead_processes_are_gone() {
        assert!(!is_gone(&this_process()));
        let mut child = std::process::Command::new("true").spawn().expect("`true` starts");
        let pid = child.id();
        let holder = format!("{}:{pid}:{}", boot_id(), start_time(pid).unwrap_or_default());
        child.wait().expect("`true` ends");
        assert!(is_gone(&holder));
        // The pid lives, but began at another time.
        assert!(is_gone(&format!("{}:{}:1", boot_id(), std::process::id())));
    }
}
