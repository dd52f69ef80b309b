//! How the program is linked.

use std::process::Command;

/// The first version of the C library that reads packed relocations.
const GLIBC_MIN: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if packed_relocations() {
        // Addresses that are put right at each start take 2 MiB of the program instead of being read and left in memory.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Whether the program runs where it is made, and the C library there can do it: an older one refuses such a program.
/// LLVM's linker and GNU's can, or pass over the option; gold, which is no longer kept up, ends with an error.
fn packed_relocations() -> bool {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("CARGO_ENCODED_RUSTFLAGS").contains("gold")
        || variable("HOST") != variable("TARGET")
        || variable("CARGO_CFG_TARGET_OS") != "linux"
        || variable("CARGO_CFG_TARGET_ENV") != "gnu"
    {
        return false;
    }
    let Ok(answer) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    let answer = String::from_utf8_lossy(&answer.stdout);
    let version = answer.trim().strip_prefix("glibc ").and_then(|version| {
        let (major, minor) = version.split_once('.')?;
        Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
    });
    version.is_some_and(|version: (u32, u32)| version >= GLIBC_MIN)
}
